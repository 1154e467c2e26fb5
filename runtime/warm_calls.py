"""WarmCalls: the calls of one function over one session, from their arguments to their values."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from dayfly.errors import DayflyError, JobStopped
from dayfly.runtime import payload, stored
from dayfly.runtime.agent import frames, known_call
from dayfly.runtime.agent.layout import aligned
from dayfly.runtime.aside import aside
from dayfly.runtime.ledger import Ledger
from dayfly.runtime.moment import ended
from dayfly.runtime.parts import Parts
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_data import WarmData
from dayfly.runtime.warm_function import WarmFunction
from dayfly.runtime.warm_line import Sent, WarmLine

if TYPE_CHECKING:
    from dayfly.runtime.display import Display
    from dayfly.runtime.moment import Moment
    from dayfly.runtime.session import Session

R = TypeVar("R")


class WarmCalls(Generic[R]):
    """What is called on the machine of a run whose warm task has been started there.

    Lifecycle: `begin` opens the line in a thread of its own, which lives as long as the session or the task; `finish` or
    `abandon` ends the task; `end` is for whoever learns that it has ended.

    Args:
        function: what is called.
        session: with the machine.
        directory: the run's own on this computer.
        greeted: set as soon as calls can be made.
        display: where is shown what should be known of the Data of calls, and how far it has come.
    """

    # Whether what a call gives is another's result, still packed.
    nested: ClassVar[bool] = False

    def __init__(
        self,
        function: WarmFunction,
        session: Session,
        directory: Path,
        greeted: threading.Event | Moment | None = None,
        display: Display | None = None,
    ) -> None:
        self._data = WarmData(session, display)
        self._function, self._session, self._directory = function, session, directory
        self._numbers, self._groups = itertools.count(1), itertools.count(1)
        self._unsent = itertools.count(-1, -1)
        self._ledger = Ledger(directory)
        keys = session.keys
        self._line = WarmLine(keys.run_id, keys.hmac_key, self._fetch, self._ledger, greeted)

    def begin(self, lost: Callable[[Exception], None] = lambda _: None) -> None:
        """Opens the line; `lost` is told where it breaks for good, after every open call was."""

        def carry() -> None:
            try:
                self._session.carry(self._line)
            except Exception as error:  # noqa: BLE001 - whoever waits for a call must hear of it
                if not self._session.closed:
                    self._line.fail(error)
                    lost(error)

        threading.Thread(target=carry, name="dayfly-calls", daemon=True).start()

    @property
    def slots(self) -> int:
        """Calls that the machine makes at once; 0 until it has answered."""
        return self._line.slots

    @property
    def over(self) -> BaseException | None:
        """What has ended the run, for all its calls; None as long as it takes some."""
        return self._line.over

    def new_group(self) -> int:
        """A number by which calls of one map know each other."""
        return next(self._groups)

    def submit_all(
        self,
        calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
        *,
        group: int = 0,
        timeout_s: float | None = None,
        most_bytes: float = math.inf,
    ) -> list[WarmCall[R]]:
        """Sends several calls together.

        Args:
            calls: positional arguments and arguments by name, of each.
            group: calls of one `new_group` may be made by one process, one after the other; 0 is none.
            timeout_s: for which each may run; the machine ends it then, and it raises CallTimeout.
            most_bytes: where the arguments of those that were taken from `calls` come to that, no more are taken.

        Returns:
            Their handles; where the run is over each has failed with what ended it.

        Raises:
            PayloadError: one cannot travel; names the part, and none is sent.
        """
        if self.over is not None:
            return [self._never(self.over) for _ in calls]

        def checked() -> Iterator[tuple[Sequence[Any], Mapping[str, Any]]]:
            for args, kwargs in calls:
                self._function.check(args, kwargs)
                yield args, kwargs

        return self._submit(checked(), group=group, timeout_s=timeout_s, most_bytes=most_bytes)

    def _submit(
        self,
        calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
        *,
        group: int = 0,
        timeout_s: float | None = None,
        most_bytes: float = math.inf,
    ) -> list[WarmCall[R]]:
        with self._line.coming():
            digest = self._function.digest(self._session, self._data)
            sent: list[Sent] = []
            size = 0
            try:
                for args, kwargs in calls:
                    sent.append(self._sent(digest, args, kwargs, group, timeout_s))
                    size += sent[-1].call.times.argument_bytes
                    if size >= most_bytes:
                        break
            except BaseException:
                for each in sent:
                    self._line.forgo(each.call.number)
                raise
        self._line.send(sent)
        return [each.call for each in sent]

    def _never(self, why: BaseException) -> WarmCall[R]:
        """A call that is not made."""
        began, run_id = time.perf_counter(), self._session.keys.run_id
        call: WarmCall[R] = WarmCall(next(self._numbers), run_id, self._line.stop, began)
        call.fail(why)
        return call

    def unsent(self, why: BaseException) -> WarmCall[R]:
        """The handle of a call that could not be sent, in a run that goes on: its number is none that the machine waits for."""
        began, run_id = time.perf_counter(), self._session.keys.run_id
        call: WarmCall[R] = WarmCall(next(self._unsent), run_id, self._line.stop, began)
        call.fail(why)
        return call

    def _sent(
        self,
        digest: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        group: int,
        timeout_s: float | None,
    ) -> Sent:
        began, keys = time.perf_counter(), self._session.keys
        content, data = payload.pack_arguments(self._function.bare, args, kwargs)
        packed = time.perf_counter()
        told, data_bytes = self._data.bring(data)
        brought = time.perf_counter()
        # Only now: a number that is never sent would be waited for on the machine.
        number = next(self._numbers)
        front = b'{"function": "%b"}\n' % digest.encode() if not told else _front(digest, told)
        call: WarmCall[R] = WarmCall(
            number, keys.run_id, self._line.stop, began, nested=self.nested
        )
        times = call.times
        times.data_s, times.data_bytes = brought - packed, data_bytes
        times.argument_bytes = len(content)
        place = keys.hmac_key, keys.run_id, frames.call_seq(number)
        if len(front) + len(content) + frames.HEADER_BYTES <= known_call.WARM_INLINE_BYTES:
            sealed = frames.seal(*place, front + bytes(content))
            times.pickle_s = time.perf_counter() - began - times.data_s
            return Sent(call, digest, sealed, "", group, timeout_s)
        times.pickle_s = time.perf_counter() - began - times.data_s
        sending = time.perf_counter()
        # Of this call alone, whatever another one is called with: it goes with its reader.
        large = Parts.of(content).behind(_front(digest, told, of=[keys.run_id, number]))
        # Its digest, which is what the header tells of it, is taken while it is sent.
        blob = self._session.put(large)
        header = frames.header_of(*place, len(large), bytes.fromhex(blob))
        times.upload_s = time.perf_counter() - sending
        return Sent(call, digest, header, blob, group, timeout_s)

    def _fetch(self, number: int) -> Path:
        file = self._directory / f"call-{number}.sealed"
        self._session.fetch_result(file, call=number)
        return file

    def finish(self) -> None:
        """Waits for what is under way, then has the task end."""
        for call in self._line.open_calls():
            call.exception()
        self._line.close()

    async def finish_aio(self) -> None:
        """As `finish`, without blocking the event loop."""
        for call in self._line.open_calls():
            await ended(call)
        await aside(self._line.close)

    def abandon(self) -> None:
        """Has the task end now, with whatever runs."""
        self._line.fail(JobStopped("the run was closed before this call had ended"))
        self._line.close()

    def end(self, why: BaseException) -> None:
        """The task has ended: what it has left is handed over, the rest learns why."""
        if self._line.open_calls() and (self._directory / stored.RESULT).exists():
            with contextlib.suppress(DayflyError, OSError):
                self._line.deliver(stored.calls(self._directory))
        self._line.fail(why)
        self._ledger.close()


def _front(digest: str, told: Mapping[str, Any], **more: Any) -> bytes:
    """The line in front of arguments."""
    return aligned(json.dumps({"function": digest, **told, **more}).encode())
