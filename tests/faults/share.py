"""Share: the trials that are to be made of one family, each with a number; its seed follows from that, and from the seed what is tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.faults.family import Family
from tests.faults.shard import WHOLE, Shard
from tests.faults.trial import Trial

# So often a trial is made whose fault does not come: the moment that it waits for had passed, or was never reached.
TRIES = 6


@dataclass(frozen=True)
class Share:
    """The numbers of a shard.

    Attributes:
        family: what is tried.
        trials: how many all shards together have of it.
        seed: of number 0.
        shard: whose numbers these are.
    """

    family: Family
    trials: int
    seed: int
    shard: Shard = WHOLE

    @property
    def numbers(self) -> list[int]:
        """The numbers of its trials."""
        return [number for number in range(self.trials) if self.shard.has(number)]

    @property
    def stride(self) -> int:
        """Seeds so far apart are of the same number: all of them try the same thing."""
        return self.family.cells * -(-self.trials // self.family.cells)

    def seed_of(self, number: int, attempt: int = 0) -> int:
        """The seed of a trial; the further ones are for where a fault did not come."""
        return self.seed + number + attempt * self.stride

    def number_of(self, seed: int) -> int | None:
        """The number of a seed, None where it is of no trial here."""
        number = (seed - self.seed) % max(self.stride, 1)
        ours = seed >= self.seed and number < self.trials and self.shard.has(number)
        return number if ours else None

    def among(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those that are its own."""
        return [trial for trial in trials if self.number_of(trial.seed) is not None]

    def missing(self, trials: Iterable[Trial]) -> dict[int, int]:
        """The numbers of which no trial has counted, each with how often it was tried."""
        tried = dict.fromkeys(self.numbers, 0)
        for trial in self.among(trials):
            number = self.number_of(trial.seed)
            if trial.counted:
                tried.pop(number, None)  # type: ignore[arg-type]  # `among` leaves none without
            elif number in tried:
                tried[number] += 1
        return tried

    def part(self, number: int, of: int) -> Share:
        """One of `of` parts."""
        return Share(self.family, self.trials, self.seed, self.shard.part(number, of))
