"""The fault script: which call of which operation goes wrong, and how."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal[
    "delay",
    "delay_answer",
    "hold",
    "hold_answer",
    "hold_drop",
    "drop_before",
    "drop_after",
    "duplicate",
    "truncate",
    "not_json",
    "empty",
    "trickle",
    "status",
]


@dataclass(frozen=True)
class Fault:
    """One line of the script.

    | kind | the call acts | the client gets |
    |---|---|---|
    | delay | after `delay_s`, also when its client is gone by then | the answer |
    | delay_answer | at once | the answer, `delay_s` later |
    | hold, hold_answer | as the two before, when the script is told to `release` | the answer |
    | hold_drop | never | a reset connection, when the script is told to `release` |
    | drop_before | never | a reset connection |
    | drop_after | once | a reset connection |
    | duplicate | twice | the first answer |
    | truncate | once | half of the body, then the end of the connection |
    | not_json | once | 200 with a page of HTML |
    | empty | once | 200 with `{}` |
    | trickle | once | the answer, a byte each `delay_s` |
    | status | only if `acts` | `status` (429 and 5xx), with Retry-After if `retry_after_s` |

    Attributes:
        op: name of an operation, or "*" for any.
        at: which calls, the first being 1, counted from when the line was added; empty for every one.
        rate: instead of `at`, the part of the calls that it hits.
        seed: makes `rate` repeatable.
        delay_s: emulated seconds.
    """

    op: str
    kind: Kind
    at: tuple[int, ...] = ()
    rate: float | None = None
    seed: int = 0
    delay_s: float = 0.0
    status: int = 502
    acts: bool = False
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown fault {self.kind!r}; known: {', '.join(get_args(Kind))}")
        if self.status != 429 and not 500 <= self.status <= 599:
            raise ValueError(f"status must be 429 or 5xx, not {self.status}")
        if self.rate is not None and self.at:
            raise ValueError("a fault has either `at` or `rate`")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fault:
        """Reads one line; `at` may be a number.

        Raises:
            ValueError: a name or a value that no fault has.
        """
        known = {each.name for each in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(
                f"unknown fields {', '.join(sorted(unknown))} of a fault; known: {', '.join(sorted(known))}"
            )
        if not {"op", "kind"} <= set(values):
            raise ValueError("a fault needs `op` and `kind`")
        at = values.get("at", ())
        return cls(**{**values, "at": (at,) if isinstance(at, int) else tuple(at)})

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


@dataclass
class _Line:
    fault: Fault
    calls: int = 0
    hits: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.fault.seed)

    def hit(self, op: str) -> bool:
        """Counts the call, and says whether it goes wrong."""
        if self.fault.op not in (op, "*"):
            return False
        self.calls += 1
        if self.fault.rate is not None:
            struck = self.chance.random() < self.fault.rate
        else:
            struck = not self.fault.at or self.calls in self.fault.at
        self.hits += struck
        return struck


class Script:
    """The lines in force. Of several that a call meets the first one counts; all of them count the call."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._lock = threading.Lock()
        self._lines = [_Line(fault) for fault in faults]
        self._released = threading.Event()
        self._held = 0

    def add(self, faults: list[Fault]) -> None:
        """Puts lines at the end; their calls count from now."""
        with self._lock:
            self._lines += [_Line(fault) for fault in faults]

    def clear(self) -> None:
        """Takes all lines out, and lets go what is held."""
        with self._lock:
            self._lines.clear()
        self.release()

    def meet(self, op: str) -> Fault | None:
        """What goes wrong with this call."""
        with self._lock:
            struck = [line.fault for line in self._lines if line.hit(op)]
        return struck[0] if struck else None

    def hold(self) -> None:
        """Waits for `release`."""
        with self._lock:
            released, self._held = self._released, self._held + 1
        released.wait()

    def release(self) -> None:
        """Lets every held call go on; later ones wait for the next release."""
        with self._lock:
            self._released.set()
            self._released = threading.Event()
            self._held = 0

    def as_json(self) -> dict[str, Any]:
        """The lines with their counts, and how many calls are held."""
        with self._lock:
            lines = [
                each.fault.as_json() | {"calls": each.calls, "hits": each.hits}
                for each in self._lines
            ]
            return {"faults": lines, "held": self._held}
