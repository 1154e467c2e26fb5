"""Tally: how far something has come that goes on beside the steps of a job, such as a map: on a terminal live, else now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dayfly.infra.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from dayfly.runtime.display import Display

# Where nothing is live, a line so often; what is over before needs none.
_EVERY_S = 10.0
_BAR = 20


class Tally:
    """How many items, or bytes, are done.

    Lifecycle: it is shown from the first `count` on; `end` takes it away, and may come twice.

    Args:
        display: where it is shown.
        name: of what goes on.
        total: how many there will be; None where that is not known.
        unit: "items" or "bytes".
        clock: a monotonic clock.
    """

    def __init__(
        self,
        display: Display,
        name: str,
        total: int | None = None,
        *,
        unit: str = "items",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total = name, total
        self._display, self._unit, self._clock = display, unit, clock
        self.since = self._said = clock()
        self._done, self._there = 0, -1

    def count(self, done: int) -> None:
        """So many are done by now; what the first count tells was there before."""
        self._done = done
        self._there = done if self._there < 0 else self._there
        self._display.take(self)
        if self._clock() - self._said >= _EVERY_S and not self._display.is_live:
            self._say()

    def end(self) -> None:
        """There will be no more."""
        if self._display.drop(self) and self._clock() - self.since >= _EVERY_S:
            self._say()

    def _say(self) -> None:
        self._said = self._clock()
        self._display.passing(self.name, self._said - self.since, self.text)

    @property
    def text(self) -> str:
        """How many of how many, how fast, and for how long it will go on like that."""
        of = "" if self.total is None else f" of {self._words(self.total)}"
        told = f"{self._words(self._done)}{of}{' items' if self._unit == 'items' else ''}"
        took, made = self._clock() - self.since, self._done - self._there
        if made <= 0 or took <= 0:
            return told
        left = (self.total or 0) - self._done
        remaining = f", {human_seconds(left * took / made)} left" if left > 0 else ""
        return f"{told}, {self._rate(made / took)}{remaining}"

    @property
    def bar(self) -> str:
        """Its part of the whole; "" where that is not known."""
        if not self.total:
            return ""
        filled = min(_BAR, _BAR * self._done // self.total)
        return "━" * filled + "╌" * (_BAR - filled)

    def _words(self, number: float) -> str:
        return human_bytes(int(number)) if self._unit == "bytes" else f"{number:.0f}"

    def _rate(self, per_s: float) -> str:
        if self._unit == "bytes":
            return f"{human_bytes(int(per_s))}/s"
        number, unit = next(
            (per_s * span, unit)
            for span, unit in ((1, "s"), (60, "min"), (3600, "h"))
            if per_s * span >= 1 or unit == "h"
        )
        return f"{number:.{0 if number >= 10 else 1}f}/{unit}"
