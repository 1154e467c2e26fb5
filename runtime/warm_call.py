"""WarmCall: the user's handle on one call of a warm run: a Future that also has a number, its output and a stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, BinaryIO, Generic, TypeVar

from dayfly.runtime import outcome
from dayfly.runtime.agent.call_output import WARM_OUTPUT_BYTES
from dayfly.runtime.aside import aside
from dayfly.runtime.ledger import Times
from dayfly.runtime.redact import redact_tail
from dayfly.runtime.verb import verb

R = TypeVar("R")


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
        self._is_watched = False
        self.set_running_or_notify_cancel()

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
            # That of the process that only handed it on.
            result = io.BytesIO(outcome.content(result, header, run_id=self.run_id))
            header = outcome.take_header(result)
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
        if self._nested or self._is_watched:
            return False
        began = result.tell()
        header = outcome.take_header(result)
        # Held over both: nobody can come in between, and have a callback run here.
        with contextlib.suppress(outcome.NotPlain), self._condition:
            if header["outcome"] == "value" and not self._is_watched and not self.done():
                value = outcome.plain(result)
                self._note(header, entry, stdout, stderr)
                self.set_result(value)
                return True
        result.seek(began)
        return False

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[R]], object]) -> None:
        with self._condition:
            self._is_watched = True
        super().add_done_callback(fn)

    def _note(
        self, header: Mapping[str, Any], entry: Mapping[str, Any], stdout: bytes, stderr: bytes
    ) -> None:
        """Writes down what is known of it beside its value."""
        self.stdout, self.stderr = _text(stdout), _text(stderr)
        self.outcome = str(header["outcome"])
        self.times.queue_s = float(entry.get("queued_s", 0.0))
        self.times.load_s = float(header.get("load_s", 0.0))
        self.times.run_s = max(0.0, float(entry.get("took_s", 0.0)) - self.times.load_s)
        self.times.peak_rss_bytes = int(header.get("peak_rss_bytes", 0))
        self.times.total_s = time.perf_counter() - self._began

    def fail(self, error: BaseException) -> None:
        """It will have no result, for a reason that lies outside of it."""
        if not self.done():
            self.set_exception(error)

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        try:
            return await asyncio.wrap_future(self)
        except asyncio.CancelledError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Stops it, behind the caller's back, since whoever awaited it was cancelled."""
        if not self.done():
            threading.Thread(target=self.stop, name="dayfly-stop", daemon=True).start()

    def __repr__(self) -> str:
        state = "running" if not self.done() else self.outcome or "failed"
        return f"<call {self.number} of run {self.run_id[:12]}: {state}>"


def _text(printed: bytes) -> str:
    return redact_tail(printed, WARM_OUTPUT_BYTES) if printed else ""
