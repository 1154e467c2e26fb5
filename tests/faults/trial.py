"""Trial: what one injected fault, or a few of them, did to a run; and the sums over many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Trial:
    """One trial and what was found after it.

    Attributes:
        family: which kind of faults.
        seed: gives the trial again.
        faults: what was injected, in words.
        leaked: machines and processes of the run that were alive when nothing might be.
        lost: results and logs that a finished function had and its caller could not get.
        secrets: where a secret was found that must not be there.
        problems: every other promise of DESIGN section 4 that did not hold.
        counted: False where the fault did not come, its target having ended before, so that nothing was tried.
        measured: what is told beside that: durations, memory, counts.
        point: the named point of a run's life at which the fault has struck; "" where it was aimed at none.
    """

    family: str
    seed: int
    faults: tuple[str, ...] = ()
    leaked: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    counted: bool = True
    measured: tuple[str, ...] = ()
    point: str = ""

    @property
    def wrong(self) -> tuple[str, ...]:
        """Everything that is not as promised."""
        return (
            *(f"leaked: {text}" for text in self.leaked),
            *(f"lost: {text}" for text in self.lost),
            *(f"secret: {text}" for text in self.secrets),
            *self.problems,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The other way."""
        held: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**held)

    def __str__(self) -> str:
        times = Counter(self.faults)
        what = ", ".join(f"{n} x {fault}" if n > 1 else fault for fault, n in times.items())
        told = f" ({', '.join(self.measured)})" if self.measured else ""
        if not self.counted:
            return f"{self.family} seed {self.seed}: not counted, its fault did not come"
        found = "; ".join(self.wrong) or "all held"
        return f"{self.family} seed {self.seed}: {what or 'nothing'}: {found}{told}"


def headline(trials: Iterable[Trial]) -> str:
    """The line of DESIGN section 9, over the trials that counted."""
    counted = [trial for trial in trials if trial.counted]
    faults, leaked, lost, secrets = (
        sum(len(getattr(trial, name)) for trial in counted)
        for name in ("faults", "leaked", "lost", "secrets")
    )
    return (
        f"{faults} faults injected, {leaked} instances leaked, {lost} results lost,"
        f" {secrets} secrets found"
    )
