"""WarmMap: many calls of a warm run, so many at once, tried again where asked for, their values in order or as they come."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
from collections import deque
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
from dayfly.runtime.display import Display
from dayfly.runtime.moment import Moment
from dayfly.runtime.tally import Tally
from dayfly.runtime.warm_call import WarmCall

if TYPE_CHECKING:
    from dayfly.runtime.warm_calls import WarmCalls

R = TypeVar("R")
# An item on its way: its place, its arguments, and how often it may be tried again.
_Attempt = tuple[int, Sequence[Any], int]
# Under way at once, or waiting for an earlier item of an ordered map, beyond what runs: so many short items fill a line with a
# long round trip. Beyond two for each slot only as long as their arguments come to no more than this.
_AHEAD, _AHEAD_BYTES = 512, 64 << 20
# Sent together, so that the first of them runs before the last is pickled.
_TOGETHER, _TOGETHER_BYTES = 64, 1 << 20
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


class Ahead:
    """What a map is to go through, of which the first item can be looked at before; each item is taken once all the same.

    Attributes:
        items: as they were given.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items
        self._first: list[Any] = []
        self._rest: Iterator[Any] | None = None

    def first(self, form: Callable[[Any], Any] | None = None) -> list[Any]:
        """The first item, as a list of one; an empty list where there is none.

        Args:
            form: what it becomes, since it may itself be something that gives its parts only once.
        """
        if self._rest is None:
            self._rest = iter(self.items)
            self._first = [form(item) if form else item for item in itertools.islice(self._rest, 1)]
        return self._first

    def __iter__(self) -> Iterator[Any]:
        if self._rest is None:
            return iter(self.items)
        # It may be large, and is not held for as long as the map lasts.
        first, self._first = self._first, []
        return itertools.chain(first, self._rest)


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
        display: Display | None = None,
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
        self._ordered = ordered
        self._tally = Tally(display or Display.silent(), "map", total)
        self._group = there.new_group()
        self._most = max_concurrency or _AHEAD + 2 * there.slots
        self._sent_bytes = 0
        self._returns, self._retries = return_exceptions, retries
        self._timeout_s = None if timeout is None else seconds(timeout, "timeout")
        self._under_way: dict[int, _Attempt] = {}
        self._calls: dict[int, WarmCall[R]] = {}
        self._arrived: queue.SimpleQueue[WarmCall[R]] = queue.SimpleQueue()
        self._news: Moment | None = None
        self._waiting: dict[int, Any] = {}
        self._next = 0
        self._over = self._left = False
        self._sending = threading.Lock()
        self._done = 0
        try:
            self._tally.count(0)
            self._refill([])
        except BaseException:
            self.leave()  # Nobody gets what would stop it when it is left.
            raise

    def results(self) -> Iterator[R]:
        """The values.

        Raises:
            Exception: that of the first item that has failed for good, or cannot be sent, behind the values that had come by
                then; the others are stopped.
        """
        try:
            while self._under_way:
                values, again, failed = self._sorted(self._first())
                if failed is None:
                    failed = self._refilled(again)
                if failed is not None:
                    self.leave()  # Not only when whoever takes the values is done with them.
                while values:
                    yield values.popleft()
                if failed is not None:
                    raise failed
        finally:
            self.leave()

    async def results_aio(self) -> AsyncGenerator[R, None]:
        """As `results`, without blocking the event loop: what has to be sent meanwhile is sent by a thread."""
        try:
            while self._under_way:
                values, again, failed = self._sorted(await self._come())
                if failed is None and (again or (not self._over and self._room() > 0)):
                    failed = await aside(functools.partial(self._refilled, again))
                if failed is not None:
                    await aside(self.leave)
                while values:
                    yield values.popleft()
                if failed is not None:
                    raise failed
        finally:
            # A thread that a cancelled task has left behind may still be sending.
            self._left = True
            self._tally.end()
            if self._under_way or self._sending.locked():
                threading.Thread(target=self.leave, name="dayfly-stop", daemon=True).start()

    def leave(self) -> None:
        """Sends nothing more, and stops what is under way."""
        self._left = True
        self._tally.end()
        with self._sending:
            left, self._calls = self._calls, {}
            for call in left.values():
                call.stop()

    def _refilled(self, again: list[_Attempt]) -> Exception | None:
        """As `_refill`; what has kept an item from being sent is given, since what has come by now is not to go with it."""
        try:
            self._refill(again)
        except Exception as error:  # noqa: BLE001 - raised behind the values
            return error
        return None

    def _refill(self, again: list[_Attempt]) -> None:
        """Sends what is to be tried again, then further items."""
        with self._sending:
            sent, attempts = 0, iter(again)
            while sent < len(again) and not self._left:
                sent += self._send(attempts)
            self._fill()

    def _fill(self) -> None:
        """Sends items until enough are under way."""
        while not (self._over or self._left) and (room := self._room()) > 0:
            self._send(self._fresh(room))
            if self._sent_bytes >= _AHEAD_BYTES and not self._arrived.empty():
                return  # A value that is there does not wait for more of what takes long to send.

    def _room(self) -> int:
        """How many further items may be sent now."""
        under_way = len(self._under_way)
        ahead = 2 * self._there.slots + (_AHEAD if self._sent_bytes < _AHEAD_BYTES else 0)
        return min(self._most - under_way, ahead - under_way - len(self._waiting))

    def _fresh(self, most: int) -> Iterator[_Attempt]:
        for _ in range(most):
            item = next(self._items, None)
            if item is None:
                self._over = True
                return
            yield item[0], tuple(item[1]), self._retries

    def _send(self, attempts: Iterator[_Attempt]) -> int:
        """Sends the first of them together, and tells how many that were."""
        first, batch = next(attempts, None), list[_Attempt]()
        if first is None:
            return 0
        packing = False

        def taken() -> Iterator[tuple[Sequence[Any], dict[str, Any]]]:
            nonlocal packing
            for attempt in itertools.chain([first], itertools.islice(attempts, _TOGETHER - 1)):
                batch.append(attempt)
                packing = True
                yield attempt[1], {}
                packing = False

        try:
            calls = self._there.submit_all(
                taken(), group=self._group, timeout_s=self._timeout_s, most_bytes=_TOGETHER_BYTES
            )
        except DayflyError as error:
            # Of the function, or of whatever gives the items, it is no item's own.
            if not (self._returns and packing):
                raise
            return self._send_without(batch, error)
        for call, attempt in zip(calls, batch, strict=True):
            self._track(call, attempt)
        return len(batch)

    def _send_without(self, batch: list[_Attempt], error: DayflyError) -> int:
        """Has the last of them failed, which has kept all from being sent, and sends the others."""
        *others, culprit = batch
        rest = iter(others)
        while self._send(rest):
            pass
        self._track(self._there.unsent(error), culprit)
        return len(batch)

    def _track(self, call: WarmCall[R], attempt: _Attempt) -> None:
        self._under_way[call.number], self._calls[call.number] = attempt, call
        self._sent_bytes += call.times.argument_bytes
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
    ) -> tuple[deque[R], list[_Attempt], BaseException | None]:
        """Of these calls, and of all that have come by now: the values that may be given, what is to be tried again, and how
        the first of them has failed for good.
        """
        while not self._arrived.empty():
            calls.append(self._arrived.get())
        again: list[_Attempt] = []
        failed: BaseException | None = None
        settled: list[tuple[int, Any]] = []
        for call in calls:
            del self._calls[call.number]
            self._sent_bytes -= call.times.argument_bytes
            index, args, left = self._under_way.pop(call.number)
            error = call.exception()
            if error is not None and left and self._may_try_again(error):
                again.append((index, args, left - 1))
            elif error is not None and not (self._returns and isinstance(error, Exception)):
                failed = error if failed is None else failed
            else:
                settled.append((index, call.result() if error is None else error))
        self._done += len(settled)
        self._tally.count(self._done)
        return self._in_turn(settled), again, failed

    def _in_turn(self, settled: list[tuple[int, Any]]) -> deque[R]:
        """The values that may be given by now."""
        if not self._ordered:
            return deque(value for _, value in settled)
        values: deque[R] = deque()
        self._waiting.update(settled)
        while self._next in self._waiting:
            values.append(self._waiting.pop(self._next))
            self._next += 1
        return values

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
