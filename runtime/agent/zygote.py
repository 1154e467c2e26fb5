"""The zygote of a warm run: it has each call made in a forked child.

A run whose task says "warm" has a zygote in the place of its runner, under the same supervisor: deadline, stop, log,
end and hold are those of any job. The zygote listens on a unix socket in the job's folder, and forks a child for each
call; a child that may be used again takes the next one. Each `serve` whose client asks for it carries parcels (a
length, then what `encode` makes) between that client and the socket; the latest client is the one that counts.

    client -> zygote   {"calls": [{n, size, blob, function, group, timeout_s}], "after": n, "ack": [n], "stop": [n],
                       "ask": [n], "coming": true, "close": true} and the sealed calls, one after the other; of a
                       large one the header alone: the rest is content by digest (`blob`)
    serve -> zygote    {"shortcut": generation} with a connection of that client, see below
    zygote -> client   {"hello": {slots, pid, shortcut}}, once a client is attached
                       {"results": [{n, size, file, out, err, queued_s, start_s, took_s}]} and, for each, the sealed
                       result (none where it lies in a file, for `get`), and the ends of what the call has printed on
                       both streams
    zygote -> child    {"blobs": folder, "calls": [{n, size, blob}], "last": bool, "device": text}, {"load": function},
                       {"shortcut": generation, "blobs", "device"} with a connection, {"shortcut": null}
    child -> zygote    {"loaded": function, ...}, {"n", "file", "out", "err", "clean", "began", "took_s", "told"} and
                       the result, {"begun": {"calls": [entry]}}, {"refer": entry} and the call, or {"look": true}

A call is known by its number, which begins with 1 and is never used again: what is sent twice runs once, and its
result is kept, and sent to each new client, until it is acknowledged. Call n is sealed as number 2n of the run, its
result as 2n + 1, so that neither can stand for another. It names its function by the SHA-256 of the content that
holds it, so that a changed function, or one with a changed global, is another one and gets a child of its own.
Where one process makes all calls, a client may lend a connection that leads straight to it, for one call at a time:
two processes less each way. The child says {"ready": true} there, tells the zygote of each call
before it begins it, and sends the result to both, so that what was said above holds as it is; a call of a function that
it does not have it hands on to the zygote. Where such calls follow each other closely, what it tells of them is written
down in memory that both share (a slate), and the zygote, which would take a core from the call if it were woken for
each, looks there every few milliseconds; {"look": true} has it look. What is sent meanwhile the usual way says which
call it comes after, and waits until that is known. The parcels there are those between client and zygote.
The zygote loads no function and calls none. It ends when it is told to close, when it has had nothing to do and no
client for `linger_s`, and, where there is an `idle_s`, when a client is there that has had no call for so long, nor one
that is "coming" while what it needs is brought: what was not acknowledged by then is in the result of the run.
"""

from __future__ import annotations

import os
import time

from .call_book import CallBook
from .children import Children
from .client_line import ClientLine
from .in_child import InChild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any

    from .end_mark import EndMark
    from .job_folder import JobFolder
    from .slate import Slate


class Zygote:
    """Has the calls of one warm run made, each in a forked child, and keeps their results for the client."""

    # The first client has just started this, and comes.
    FIRST_S = 60.0

    def __init__(
        self,
        job: JobFolder,
        order: Mapping[str, Any],
        settings: Mapping[str, Any],
        gpus: Callable[[], tuple[list[str], str]],
    ) -> None:
        import selectors

        self._job, self._gpus = job, gpus()
        self._keeps = settings["isolation"] == "process"
        self._linger_s: float = settings["linger_s"]
        self._alone_s: float = max(self.FIRST_S, self._linger_s)
        self._idle_s: float = settings["idle_s"]
        self._idle_since = time.monotonic()
        self._closing = self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._book = CallBook(job, bytes.fromhex(order["key"]), order["run_id"])
        self._children = Children(
            settings,
            len(self._gpus[0]),
            job.file("calls"),
            selector=self._selector,
            book=self._book,
            work=self._in_child,
        )
        hello = {
            "slots": self._children.slots,
            "pid": os.getpid(),
            "shortcut": self._children.takes_shortcut,
        }
        self._line = ClientLine(
            self._selector, hello, self._on_parcel, self._on_attached, self._on_lent
        )

    # -- the loop

    def serve(self) -> int:
        """Take calls until there is an end of them; give the exit code of the process."""
        os.mkdir(self._job.file("calls"), 0o700)
        self._listen_for_signals()
        self._line.listen(self._job.path)
        self._children.fork_ahead(self._line.blobs)
        try:
            while not self._over():
                self._turn(self._pause())
                self._tend()
            self._book.run_ends = self._stopping
            self._children.end_all(self._stopping, lambda: self._turn(0.01))
        except BaseException:
            # The children are the supervisor's to end; what has come to its end must not be lost with the rest.
            self._children.hear_all()
            self._book.give_up()
            raise
        finally:
            self._book.leave_results()
        return 143 if self._stopping else 0

    def _turn(self, pause_s: float) -> None:
        for key, events in self._selector.select(pause_s):
            key.data(events)

    def _tend(self) -> None:
        self._children.ending = self._closing or self._stopping
        self._book.run_ends = self._stopping
        self._children.tend()
        self._children.start_queued(self._line.blobs)
        self._line.send_results(self._book)
        if self._children.to_import and not self._book.queue and not self._children.busy:
            self._import_ahead()
        self._children.fork_ahead(self._line.blobs)

    def _over(self) -> bool:
        if self._closing or self._stopping:
            return not self._book.ready or self._line.client is None
        now = time.monotonic()
        if self._line.client is not None or self._book.may_begin or self._children.busy:
            self._line.alone_since = now
        if self._line.client is None or self._book.queue or self._book.ready or self._children.busy:
            self._idle_since = now
        # A call that came straight to a child may be known of when it is over.
        self._idle_since = max(self._idle_since, self._children.moved)
        idle = bool(self._idle_s) and now - self._idle_since >= self._idle_s
        return idle or now - self._line.alone_since >= self._alone_s

    def _pause(self) -> float:
        stuck = self._book.may_begin and not self._children.busy
        if self._book.ready or stuck or self._closing or self._stopping:
            return 0.05
        if self._line.client is None:
            return self._children.pause(self._alone_s)
        idle_in_s = self._idle_since + self._idle_s - time.monotonic()
        return self._children.pause(max(0.05, idle_in_s) if self._idle_s else 3600.0)

    # -- signals

    def _listen_for_signals(self) -> None:
        import selectors

        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._hear_signals()
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signal)

    def _hear_signals(self) -> None:
        import signal

        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = self._children.stopped = True

    def _on_signal(self, events: int) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return

    # -- the client

    def _on_attached(self, generation: int) -> None:
        self._alone_s = self._linger_s
        self._children.attached(generation)
        self._book.offer_all()

    def _on_lent(self, shortcut: Any) -> None:
        self._children.lend(shortcut, self._line.blobs)

    def _on_parcel(self, head: Mapping[str, Any], body: bytes) -> None:
        offset = 0
        if head.get("coming"):
            self._idle_since = time.monotonic()
        for entry in head.get("calls", ()):
            self._book.take(entry, body[offset : offset + entry["size"]], head.get("after", 0))
            offset += entry["size"]
        for number in head.get("stop", ()):
            self._book.stop(number)
        for number in head.get("ack", ()):
            self._book.acknowledge(number)
        for number in head.get("ask", ()):
            self._book.ask_for(number)
        self._closing = self._closing or bool(head.get("close"))

    # -- children

    def _in_child(self, channel: Any, slate: Slate | None, mark: EndMark) -> int:
        """What a forked child does: it lets go of what is the zygote's, and makes calls."""
        self._line.close()
        self._selector.close()
        self._children.return_lent()
        child = InChild(self._book, self._gpus, self._keeps, channel, slate, mark=mark)
        # A stop that came before it listened for its own was heard by what it is a copy of.
        return 143 if self._stopping else child.work()

    def _import_ahead(self) -> None:
        """Import what a child had to import before it could call its function, so that the next ones have it.

        Only what a child has imported without harm: a crash, a thread or a GPU that was touched has stayed in it.
        """
        from importlib import import_module

        names, self._children.to_import = self._children.to_import, []
        for name in names:
            try:
                import_module(name)
            except BaseException:  # noqa: BLE001, S112 - then it is the children's to import, and to tell
                continue
        # A module may have taken them for itself.
        self._hear_signals()
        self._children.renew_spare()
