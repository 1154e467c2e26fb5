"""Moment and Bell: what threads and event loops alike wait for without looking again and again."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import Any

from dayfly.runtime import wakeful


class Moment:
    """Something that comes once: an event that a task can wait for, too."""

    def __init__(self) -> None:
        self._come: concurrent.futures.Future[None] = concurrent.futures.Future()
        # A task that gives up waiting would cancel it for all others otherwise.
        self._come.set_running_or_notify_cancel()

    def set(self) -> None:
        """It has come; a second time changes nothing."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self._come.set_result(None)

    def is_set(self) -> bool:
        """Whether it has come."""
        return self._come.done()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until it has come; False where the time was over before. An interrupt ends the wait."""
        return wakeful.wait(self._has_come, timeout_s)

    def _has_come(self, turn_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            self._come.result(turn_s)
        return self.is_set()

    async def come(self) -> None:
        """Waits without blocking the event loop."""
        await asyncio.wrap_future(self._come)


async def ended(future: concurrent.futures.Future[Any]) -> None:
    """Waits until it is done, however it has ended, without blocking the event loop; who gives up waiting changes nothing."""
    over = Moment()
    future.add_done_callback(lambda _: over.set())
    await over.come()


class Bell:
    """Something that happens again and again; who takes `next` before it looks misses nothing."""

    def __init__(self) -> None:
        self._next = Moment()
        self._lock = threading.Lock()

    @property
    def next(self) -> Moment:
        """The next ring from now on."""
        return self._next

    def ring(self) -> None:
        """Everyone who waits is woken; from any thread."""
        with self._lock:
            rung, self._next = self._next, Moment()
        rung.set()
