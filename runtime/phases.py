"""Phases: the life of a run as stretches of time with names, from its journal alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dayfly.stacks.journal import Event, History

# The phase that begins with an event, "" where nothing goes on until the next; and after which phases only: a deadline is
# moved, and a run taken in hand again, while something else goes on.
_BEGUN_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "intent": ("provision", ("",)),
    "machine": ("connect", ("provision",)),
    "deadline_armed": ("environment", ("connect",)),
    "job_started": ("run", ("connect", "environment")),
    "job_ended": ("result", ("run", "result")),
    "acknowledged": ("", ("result",)),
    "held": ("hold", ("run", "result")),
    "attached": ("result", ("hold",)),
    "kept": ("kept", ()),
    "claimed": ("lent", ("kept",)),
    "closing": ("teardown", ()),
    "leak_risk": ("", ()),
    "closed": ("", ()),
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
        begun, after = _BEGUN_BY.get(event.name, (name, ()))
        if begun == name or (after and name not in after):
            continue
        moment = max(start, _moment(event))
        if name:
            yield Phase(name, start, moment)
        name, start = begun, moment
    if name:
        yield Phase(name, start, None)


def _moment(event: Event) -> float:
    """When it was; of a job's end the machine knows better than who came to see it later."""
    if event.name != "job_ended":
        return event.time
    ended = event.fields.get("ended")
    return min(event.time, float(ended)) if isinstance(ended, int | float) and ended else event.time
