"""WarmMap: many calls of a warm run, so many at once, tried again where asked for, their values in order or as they come."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from dayfly.errors import (
    DayflyError,
    DeadlineReached,
    Detached,
    EnvironmentFailed,
    GpuIdle,
    InstanceLost,
    JobStopped,
    RunFailed,
    SpecError,
)
from dayfly.infra.units import seconds, shown
from dayfly.runtime import wakeful
from dayfly.runtime.aside import aside
from dayfly.runtime.moment import Moment
from dayfly.runtime.warm_call import WarmCall

if TYPE_CHECKING:
    from dayfly.runtime.warm_calls import WarmCalls

R = TypeVar("R")
# Under way at once, beyond what runs: so many short items fill a line with a long round trip.
_AHEAD = 512
# Sent together, so that the first of them runs before the last is pickled.
_TOGETHER = 64
_FINAL = (DeadlineReached, Detached, EnvironmentFailed, GpuIdle, InstanceLost, JobStopped)


class MapOptions(TypedDict, total=False):
    """How the items of a map are called.

    Attributes:
        max_concurrency: calls at once at most; by default as many as the machine has slots.
        return_exceptions: gives an exception in the place of a value, instead of raising the first one.
        retries: further attempts of an item that has raised, crashed, or taken too long; 0.
        timeout: for how long each attempt may run on the machine; seconds, or "10m".
    """

    max_concurrency: int | None
    return_exceptions: bool
    retries: int
    timeout: float | str | None


class WarmMap(Generic[R]):
    """The items of one map.

    Lifecycle: constructing sends the first items; `results` or `results_aio` is to be iterated once, and stops what is
    left of them when it is left early.
    """

    def __init__(
        self,
        there: WarmCalls[R],
        items: Iterable[Sequence[Any]],
        *,
        total: int | None,
        ordered: bool,
        progress: Callable[[str], None] = lambda _: None,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | str | None = None,
    ) -> None:
        for name, value, least in (
            ("max_concurrency", max_concurrency, 1),
            ("retries", retries, 0),
        ):
            if value is not None and (type(value) is not int or value < least):
                raise SpecError(f"{name}={shown(value)} must be a whole number of at least {least}")
        self._there, self._items = there, enumerate(items)
        self._total, self._ordered, self._progress = total, ordered, progress
        self._group = there.new_group()
        self._most = max_concurrency or _AHEAD + 2 * there.slots
        self._returns, self._retries = return_exceptions, retries
        self._timeout_s = None if timeout is None else seconds(timeout, "timeout")
        self._under_way: dict[int, tuple[int, Sequence[Any], int]] = {}
        self._calls: dict[int, WarmCall[R]] = {}
        self._arrived: queue.SimpleQueue[WarmCall[R]] = queue.SimpleQueue()
        self._news: Moment | None = None
        self._waiting: dict[int, Any] = {}
        self._next = 0
        self._over = self._left = False
        self._sending = threading.Lock()
        self._done = 0
        try:
            self._refill([])
        except BaseException:
            self.leave()  # Nobody gets what would stop it when it is left.
            raise

    def results(self) -> Iterator[R]:
        """The values.

        Raises:
            Exception: that of the first item that has failed for good; the others are stopped.
        """
        try:
            while self._under_way:
                settled, again = self._sorted(self._first())
                self._refill(again)
                yield from self._in_turn(settled)
        finally:
            self.leave()

    async def results_aio(self) -> AsyncGenerator[R, None]:
        """As `results`, without blocking the event loop: what has to be sent meanwhile is sent by a thread."""
        try:
            while self._under_way:
                settled, again = self._sorted(await self._come())
                if again or (not self._over and len(self._under_way) < self._most):
                    await aside(functools.partial(self._refill, again))
                for value in self._in_turn(settled):
                    yield value
        finally:
            # A thread that a cancelled task has left behind may still be sending.
            self._left = True
            if self._under_way or self._sending.locked():
                threading.Thread(target=self.leave, name="dayfly-stop", daemon=True).start()

    def leave(self) -> None:
        """Sends nothing more, and stops what is under way."""
        self._left = True
        with self._sending:
            for call in self._calls.values():
                call.stop()

    def _refill(self, again: list[tuple[int, Sequence[Any], int]]) -> None:
        """Sends what is to be tried again, then further items."""
        with self._sending:
            if not self._left:
                self._send(again)
                self._fill()

    def _fill(self) -> None:
        """Sends items until enough are under way."""
        while not (self._over or self._left) and len(self._under_way) < self._most:
            room = min(_TOGETHER, self._most - len(self._under_way))
            batch: list[tuple[int, Sequence[Any], int]] = []
            while len(batch) < room and not self._over:
                item = next(self._items, None)
                if item is None:
                    self._over = True
                else:
                    batch.append((item[0], tuple(item[1]), self._retries))
            self._send(batch)

    def _send(self, batch: list[tuple[int, Sequence[Any], int]]) -> None:
        if not batch:
            return
        calls = self._there.submit_all(
            [(args, {}) for _, args, _ in batch], group=self._group, timeout_s=self._timeout_s
        )
        for call, attempt in zip(calls, batch, strict=True):
            self._under_way[call.number], self._calls[call.number] = attempt, call
            call.tell(self._arrive)

    def _arrive(self, call: Any) -> None:
        self._arrived.put(call)
        if self._news is not None:
            self._news.set()

    async def _come(self) -> list[WarmCall[R]]:
        """Waits for at least one call."""
        while True:
            # Before it is looked: whatever comes from now on sets it.
            news = self._news = Moment()
            if not self._arrived.empty():
                return [self._arrived.get()]
            await news.come()

    def _sorted(
        self, calls: list[WarmCall[R]]
    ) -> tuple[list[tuple[int, Any]], list[tuple[int, Sequence[Any], int]]]:
        """Of these calls, and of all that have come by now: what is done for good, and what is to be tried again.

        Raises:
            Exception: that of an item that has failed for good.
        """
        while not self._arrived.empty():
            calls.append(self._arrived.get())
        again: list[tuple[int, Sequence[Any], int]] = []
        settled: list[tuple[int, Any]] = []
        for call in calls:
            del self._calls[call.number]
            index, args, left = self._under_way.pop(call.number)
            error = call.exception()
            if error is not None and left and self._may_try_again(error):
                again.append((index, args, left - 1))
            elif error is not None and not (self._returns and isinstance(error, Exception)):
                raise error
            else:
                settled.append((index, call.result() if error is None else error))
        self._done += len(settled)
        self._progress(f"{self._done} of {'?' if self._total is None else self._total} items")
        return settled, again

    def _in_turn(self, settled: list[tuple[int, Any]]) -> Iterator[R]:
        """The values that may be given by now."""
        if not self._ordered:
            yield from (value for _, value in settled)
            return
        self._waiting.update(settled)
        while self._next in self._waiting:
            yield self._waiting.pop(self._next)
            self._next += 1

    def _first(self) -> list[WarmCall[R]]:
        """Waits for one that has arrived."""
        found: list[WarmCall[R]] = []

        def turn(turn_s: float) -> bool:
            with contextlib.suppress(queue.Empty):
                found.append(self._arrived.get(timeout=turn_s))
            return bool(found)

        wakeful.wait(turn)
        return found

    def _may_try_again(self, error: BaseException) -> bool:
        if self._there.over is not None:
            return False
        if isinstance(error, DayflyError):
            return isinstance(error, RunFailed) and not isinstance(error, _FINAL)
        return isinstance(error, Exception)
