"""Phases: the life of a run as stretches of time with names, from its journal alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dayfly.stacks.journal import Event, History

# The phase that begins with an event; "" where nothing goes on until the next.
_BEGUN_BY = {
    "intent": "provision",
    "machine": "connect",
    "deadline_armed": "environment",
    "job_started": "run",
    "job_ended": "result",
    "acknowledged": "",
    "held": "hold",
    "attached": "result",
    "closing": "teardown",
    "leak_risk": "",
    "closed": "",
}


@dataclass(frozen=True)
class Phase:
    """One stretch; unix times, `end` None while it lasts."""

    name: str
    start: float
    end: float | None

    def seconds(self, now: float) -> float:
        """How long it took, or has taken until now."""
        return max(0.0, (now if self.end is None else self.end) - self.start)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def of(history: History) -> tuple[Phase, ...]:
    """The phases of a run, the first first; the last of an open run has no end."""
    return tuple(_phases(history))


def _phases(history: History) -> Iterator[Phase]:
    name, start = "", 0.0
    for event in history.events:
        begun = _BEGUN_BY.get(event.name)
        if begun is None or begun == name or _changes_nothing(event, name):
            continue
        moment = max(start, _moment(event))
        if name:
            yield Phase(name, start, moment)
        name, start = begun, moment
    if name:
        yield Phase(name, start, None)


def _changes_nothing(event: Event, phase: str) -> bool:
    """Who takes a run in hand whose function runs has it run on; a result of which the end came late is there already."""
    return (event.name == "attached" and phase != "hold") or (
        event.name == "job_ended" and phase not in ("run", "result")
    )


def _moment(event: Event) -> float:
    """When it was; of a job's end the machine knows better than who came to see it later."""
    if event.name != "job_ended":
        return event.time
    ended = event.fields.get("ended")
    return min(event.time, float(ended)) if isinstance(ended, int | float) and ended else event.time
