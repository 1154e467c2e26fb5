"""WarmCall: the user's handle on one call of a warm run: a Future that also has a number, its output and a stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Generic, TypeVar

from dayfly.runtime import outcome, wakeful
from dayfly.runtime.agent.call_output import WARM_OUTPUT_BYTES
from dayfly.runtime.aside import aside
from dayfly.runtime.ledger import Times
from dayfly.runtime.moment import Moment
from dayfly.runtime.redact import redact_tail
from dayfly.runtime.verb import verb

R = TypeVar("R")
# Callbacks may take hours, make calls, and wait for each other: beyond so many, one waits for another to return.
_CALLBACKS_AT_ONCE = 64


class WarmCall(concurrent.futures.Future[R], Generic[R]):
    """One call on a machine that is kept.

    `result`, `exception`, `add_done_callback` are those of a Future; `cancel` is refused, since it is on its way from
    the beginning, and `stop` ends it at any time. It can be awaited; a task that is cancelled while it awaits it stops it.

    Attributes:
        number: which call of its run it is; the first is 1.
        times: where its time went; whole once it is done.
        stdout: the end of what it has printed, 16 KiB at most; all of it is in the run's log.
        stderr: the same of stderr.
    """

    def __init__(
        self,
        number: int,
        run_id: str,
        stop: Callable[[int], None],
        began: float,
        *,
        nested: bool = False,
    ) -> None:
        """`began` is when it was called, on the clock of `time.perf_counter`; where it is `nested`, its value is a result."""
        super().__init__()
        self.number, self.run_id = number, run_id
        self.times = Times()
        self.outcome = ""
        self.stdout = self.stderr = ""
        self._stop, self._began, self._nested = stop, began, nested
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> R:
        """As of a Future; an interrupt ends the wait whichever thread was given the signal."""
        wakeful.wait(self._ended, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of a Future; an interrupt ends the wait whichever thread was given the signal."""
        wakeful.wait(self._ended, timeout)
        return super().exception(0)

    def _ended(self, turn_s: float) -> bool:
        try:
            super().exception(turn_s)
        except TimeoutError:
            return self.done()
        return True

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """As of a Future; one that is not called at once is called in a thread by which no result comes."""
        if self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(functools.partial(_call_aside, fn))

    def tell(self, fn: Callable[[Future[R]], object]) -> None:
        """As `add_done_callback`, for what neither waits nor runs the user's code: it is called where the result comes."""
        super().add_done_callback(fn)

    async def _stop_aio(self) -> None:
        await aside(self.stop)

    @verb(_stop_aio)
    def stop(self) -> None:
        """Ends it: one that waits is not started, one that runs gets SIGTERM, grace, SIGKILL; the result is JobStopped."""
        if not self.done():
            self._stop(self.number)

    def settle(
        self, result: BinaryIO, entry: Mapping[str, Any], stdout: bytes, stderr: bytes
    ) -> None:
        """Takes the unsealed result, which is authentic for this call.

        Args:
            result: a file of header and pickle.
            entry: what the machine says of it.
            stdout, stderr: what the call has printed.
        """
        header = outcome.take_header(result)
        if self._nested and header["outcome"] == "value":
            # That of the process that only handed it on, and has printed nothing.
            outcome.enter(result)
            header = outcome.take_header(result)
            stdout, stderr = (header.get(name, "").encode() for name in ("stdout", "stderr"))
        self._note(header, entry, stdout, stderr)
        try:
            value = outcome.content(result, header, run_id=self.run_id)
        except BaseException as error:  # noqa: BLE001 - the function's own exception, whatever it is
            if self.outcome in outcome.CALL_FAILURES and self.stderr.strip():
                error.add_note(f"its last words on stderr:\n{self.stderr.strip()[-2000:]}")
            self.fail(error)
        else:
            if not self.done():
                self.set_result(value)

    def settle_plain(
        self, result: BinaryIO, entry: Mapping[str, Any], stdout: bytes, stderr: bytes
    ) -> bool:
        """As `settle`, as long as that runs nobody's code; else it does nothing.

        Returns:
            Whether it is settled.
        """
        if self._nested:
            return False
        began = result.tell()
        header = outcome.take_header(result)
        with contextlib.suppress(outcome.NotPlain):
            if header["outcome"] == "value" and not self.done():
                value = outcome.plain(result)
                self._note(header, entry, stdout, stderr)
                self.set_result(value)
                return True
        result.seek(began)
        return False

    def _note(
        self, header: Mapping[str, Any], entry: Mapping[str, Any], stdout: bytes, stderr: bytes
    ) -> None:
        """Writes down what is known of it beside its value."""
        self.stdout, self.stderr = _text(stdout), _text(stderr)
        self.outcome = str(header["outcome"])
        self.times.queue_s = float(entry.get("queued_s", 0.0))
        self.times.start_s = float(entry.get("start_s", 0.0))
        self.times.load_s = float(header.get("load_s", 0.0))
        self.times.run_s = max(0.0, float(entry.get("took_s", 0.0)) - self.times.load_s)
        self.times.peak_rss_bytes = int(header.get("peak_rss_bytes", 0))
        self.times.total_s = time.perf_counter() - self._began

    def prepared(self, pickle_s: float, data_s: float, data_bytes: int) -> None:
        """Adds what was done for it before it was handed on to be made."""
        self._began -= pickle_s + data_s
        self.times.pickle_s += pickle_s
        self.times.data_s += data_s
        self.times.data_bytes += data_bytes

    def fail(self, error: BaseException) -> None:
        """It will have no result, for a reason that lies outside of it."""
        if not self.done():
            self.times.total_s = time.perf_counter() - self._began
            self.set_exception(error)

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        # Not by a callback, which might have to wait for those of the user.
        come = Moment()
        self.tell(lambda _: come.set())
        try:
            await come.come()
        except asyncio.CancelledError:
            self.abandon()
            raise
        return super().result(0)

    def abandon(self) -> None:
        """Stops it, behind the caller's back, since whoever awaited it was cancelled."""
        if not self.done():
            threading.Thread(target=self.stop, name="dayfly-stop", daemon=True).start()

    def __repr__(self) -> str:
        state = "running" if not self.done() else self.outcome or "failed"
        return f"<call {self.number} of run {self.run_id[:12]}: {state}>"


@functools.cache
def _callbacks() -> ThreadPoolExecutor:
    """The end of the process waits for what is in it."""
    return ThreadPoolExecutor(_CALLBACKS_AT_ONCE, "dayfly-callbacks")


def _call_aside(fn: Callable[[Future[R]], object], call: Future[R]) -> None:
    try:
        _callbacks().submit(_called, fn, call)
    except RuntimeError:
        # The program's last statement is past, and no pool takes any more work; the process waits for this as for that.
        threading.Thread(target=_called, args=(fn, call), name="dayfly-callbacks").start()


def _called(fn: Callable[[Future[R]], object], call: Future[R]) -> None:
    try:
        fn(call)
    except BaseException:  # It is said as a Future says it, which has nobody to raise it to either.
        logging.getLogger("concurrent.futures").exception("exception calling callback for %r", call)


def _text(printed: bytes) -> str:
    return redact_tail(printed, WARM_OUTPUT_BYTES) if printed else ""
