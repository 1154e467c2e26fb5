"""What happens by itself later: a status that changes, a row that vanishes."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

from tests.emulators.lambda_cloud.clock import Clock


class Schedule:
    """Runs each act at its emulated time, in one thread that lives as long as the emulator."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._acts: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="schedule")

    def start(self) -> None:
        """From now on acts happen."""
        self._thread.start()

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Does it so many emulated seconds from now."""
        with self._changed:
            due = self._clock.now() + delay_s
            heapq.heappush(self._acts, (due, next(self._numbers), act))
            self._changed.notify()

    def look(self) -> None:
        """The clock has been moved on: what is due by now happens."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Drops what is still due."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (act := self._next()) is not None:
            act()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._ended:
                if not self._acts:
                    self._changed.wait()
                    continue
                left = self._acts[0][0] - self._clock.now()
                if left <= 0:
                    return heapq.heappop(self._acts)[2]
                self._changed.wait(self._clock.real(left))
            return None
