"""Shard: the part of all seeds that one process, or one computer, takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The seeds that leave `first` when divided by `of`."""

    first: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "i/n", i from 1 to n.

        Raises:
            ValueError: it is something else.
        """
        first, _, of = text.partition("/")
        if not (first.isdigit() and of.isdigit() and 1 <= int(first) <= int(of)):
            raise ValueError(f"{text!r} is no shard: write i/n with i from 1 to n, such as 1/2")
        return cls(int(first) - 1, int(of))

    def has(self, seed: int) -> bool:
        """Whether a seed is of this shard."""
        return seed % self.of == self.first

    def share(self, trials: int) -> int:
        """How many of so many trials are its own."""
        return len(range(self.first, trials, self.of))

    def part(self, number: int, of: int) -> Shard:
        """One of `of` parts of this shard."""
        return Shard(self.first + self.of * number, self.of * of)

    def seeds(self, start: int) -> Iterator[int]:
        """Its own, from `start` on."""
        return itertools.count(start + (self.first - start) % self.of, self.of)

    def __str__(self) -> str:
        return f"{self.first + 1}/{self.of}"


WHOLE = Shard()
