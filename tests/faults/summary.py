"""Summary: what a campaign has come to: its headline, what failed, what is missing, and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.moments import POINTS
from tests.faults.records import Records
from tests.faults.share import Share
from tests.faults.trial import Trial, headline

# Where a full run has to have hit, and how often at least: the points of a run's life at which a kill has to have landed.
_POINTS: dict[str, tuple[str, ...]] = {"kills": POINTS}
LEAST_AT_A_POINT = 30


@dataclass(frozen=True)
class Summary:
    """What a campaign has come to.

    Attributes:
        trials: that counted.
        skipped: families that have too few trials, with how many.
        thin: named points at which too few faults have landed, with how many.
        took_s: how long each family was tried.
        seed: of the first trial.
    """

    trials: tuple[Trial, ...]
    skipped: tuple[str, ...]
    thin: tuple[str, ...]
    took_s: dict[str, float]
    seed: int

    @classmethod
    def of(
        cls, shares: Sequence[Share], records: Records, *, points_of: Collection[str] = ()
    ) -> Summary:
        """From the records.

        Args:
            shares: what is to have been tried.
            records: what was.
            points_of: families that have to have hit their named points often enough, as in a full run.
        """
        trials: list[Trial] = []
        skipped, thin, took_s = list[str](), list[str](), dict[str, float]()
        for share in shares:
            name, wanted = share.family.name, len(share.numbers)
            found = records.trials(name)
            own = [trial for trial in share.among(found) if trial.counted]
            left = len(share.missing(found))
            trials += own
            skipped += [f"{name} ({wanted - left} of {wanted} trials)"] * bool(left)
            thin += _thin(name, own) if name in points_of else []
            took_s |= {name: records.took_s(name)} if own else {}
        return cls(tuple(trials), tuple(skipped), tuple(thin), took_s, shares[0].seed)

    @property
    def failed(self) -> list[Trial]:
        """Every trial in which something did not hold."""
        return [trial for trial in self.trials if trial.wrong]

    @property
    def text(self) -> str:
        """The headline, and what it does not cover."""
        lines = [headline(self.trials)]
        took = [f"{name} {took_s / 60:.1f}" for name, took_s in self.took_s.items()]
        lines += [f"minutes: {', '.join(took)}; together {self._whole_s / 60:.1f}"] * bool(took)
        lines += [f"skipped: {', '.join(self.skipped)}"] * bool(self.skipped)
        lines += [f"too few: {', '.join(self.thin)}"] * bool(self.thin)
        lines += [f"{len(self.failed)} trials failed"] * bool(self.failed)
        return "\n".join(lines)

    @property
    def _whole_s(self) -> float:
        return sum(self.took_s.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = sorted({trial.family for trial in self.trials})
        return {
            "headline": headline(self.trials),
            "skipped": list(self.skipped),
            "too_few": list(self.thin),
            "failures": [str(trial) for trial in self.failed],
            "seed": self.seed,
            "took_s": self._whole_s,
            "families": {name: self._family(name) for name in names},
        }

    def _family(self, name: str) -> dict[str, Any]:
        own = [trial for trial in self.trials if trial.family == name]
        return {
            "trials": len(own),
            "headline": headline(own),
            "took_s": self.took_s[name],
            "points": dict(Counter(trial.point for trial in own if trial.point)),
            "seeds": [trial.seed for trial in own],
        }


def _thin(family: str, trials: Sequence[Trial]) -> list[str]:
    """The named points of a family that have too few."""
    landed = Counter(trial.point for trial in trials)
    return [
        f"{family} at {point!r} ({landed[point]} of {LEAST_AT_A_POINT})"
        for point in _POINTS.get(family, ())
        if landed[point] < LEAST_AT_A_POINT
    ]
