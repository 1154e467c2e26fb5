"""Shard: the part of all trials that one process, or one computer, takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The numbers that leave `first` when divided by `of`."""

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

    def has(self, number: int) -> bool:
        """Whether a trial is of this shard."""
        return number % self.of == self.first

    def part(self, number: int, of: int) -> Shard:
        """One of `of` parts of this shard."""
        return Shard(self.first + self.of * number, self.of * of)

    def __str__(self) -> str:
        return f"{self.first + 1}/{self.of}"


WHOLE = Shard()
