"""Usage: one reading of a run: its phases, what it uses now and has used, and the last lines of its log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dayfly.runtime import phases, samples, show
from dayfly.runtime.phases import Phase
from dayfly.runtime.run_log import STREAMS
from dayfly.runtime.samples import Sample, Use
from dayfly.stacks.journal import History

TAIL_BYTES = 4096
_TAIL_LINES = 20


@dataclass(frozen=True)
class Usage:
    """One reading of a run.

    Attributes:
        run: its id.
        status: as in `dayfly ps`.
        function: its name, "" for a machine alone.
        phases: the stretches of its life so far, the last under way where the run is open.
        samples: what its machine has told, the first one of several, the oldest first; older ones stand for longer times.
        others: the same of each of the others.
        use: mean and peak of `samples`; None where there are none.
        log: the last lines of the function's output.
        usd: dollars so far.
        usd_per_hour: what its machine costs.
        trouble: why this is not of now: its machine could not be asked; "" where it is.
        taken: unix time of the reading.
    """

    run: str
    status: str
    function: str
    phases: tuple[Phase, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    others: tuple[tuple[Sample, ...], ...] = field(repr=False)
    use: Use | None
    log: tuple[str, ...]
    usd: float
    usd_per_hour: float
    trouble: str
    taken: float

    @classmethod
    def of(
        cls,
        history: History,
        told: Sequence[tuple[Sample, ...]] | None = None,
        tails: Mapping[str, bytes] | None = None,
        *,
        trouble: str = "",
    ) -> Self:
        """From the run's directory, or with what its machines have just told instead of that.

        Args:
            history: its journal.
            told: samples of each machine; None for those of the directory.
            tails: the last bytes of each log, masked; None for those of the directory.
            trouble: why the machine could not be asked.
        """
        now = time.time()
        summary = show.summary(history, now)
        known = samples.read_all(history.directory, history.nodes) if told is None else told
        first, *others = known
        ends = _ends(history.directory) if tails is None else tails
        return cls(
            run=history.id,
            status=summary["status"],
            function=summary["job_name"] or summary["function"],
            phases=phases.of(history),
            samples=first,
            others=tuple(others),
            use=Use.of(first),
            log=_last_lines(ends.get(stream, b"") for stream in STREAMS),
            usd=summary["usd"],
            usd_per_hour=summary["usd_per_hour"],
            trouble=trouble,
            taken=now,
        )

    @property
    def machines(self) -> tuple[tuple[Sample, ...], ...]:
        """The samples of each machine, in their order."""
        return (self.samples, *self.others)

    @property
    def latest(self) -> Sample | None:
        """The last sample of the first machine."""
        return self.samples[-1] if self.samples else None

    @property
    def phase(self) -> str:
        """What goes on, "" where nothing does."""
        last = self.phases[-1] if self.phases else None
        return last.name if last is not None and last.end is None else ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: of the samples the last; `now` and `use` of the first machine, `machines` of each."""
        return {
            "run": self.run,
            "status": self.status,
            "function": self.function,
            "phase": self.phase,
            "phases": [
                {**phase.as_dict(), "seconds": round(phase.seconds(self.taken), 3)}
                for phase in self.phases
            ],
            "now": None if self.latest is None else self.latest.as_dict(),
            "use": None if self.use is None else self.use.as_dict(),
            "machines": [
                {
                    "now": told[-1].as_dict() if told else None,
                    "use": use.as_dict() if (use := Use.of(told)) else None,
                }
                for told in self.machines
            ],
            "log": list(self.log),
            "usd": self.usd,
            "usd_per_hour": self.usd_per_hour,
            "trouble": self.trouble,
            "taken": self.taken,
        }


def _ends(directory: Path) -> dict[str, bytes]:
    return {stream: _end(directory / f"{stream}.log") for stream in STREAMS}


def _end(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read()
    except FileNotFoundError:
        return b""


def _last_lines(ends: Iterable[bytes]) -> tuple[str, ...]:
    """The last lines of each log; of a progress bar what it showed last."""
    lines: list[str] = []
    for data in ends:
        whole = [line.rsplit(b"\r", 1)[-1] for line in data.replace(b"\r\n", b"\n").split(b"\n")]
        lines += [line.decode(errors="replace") for line in whole if line.strip()][-_TAIL_LINES:]
    return tuple(lines)
