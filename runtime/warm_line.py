"""WarmLine: the calls of a warm run that are under way; each goes to the machine until its one result is here."""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dayfly.errors import DayflyError, Forged
from dayfly.runtime import outcome
from dayfly.runtime.agent import frames
from dayfly.runtime.agent.inbox import Inbox, parcel
from dayfly.runtime.warm_call import WarmCall

if TYPE_CHECKING:
    from dayfly.runtime.ledger import Ledger
    from dayfly.runtime.moment import Moment
    from dayfly.runtime.ssh.connection import Stream
    from dayfly.runtime.ssh.link import Link

# What is sent at once: a frame holds 16 MiB at most, and the machine should begin before all of it is there.
_PARCEL_BYTES = 256 << 10
# Below this, acknowledgements wait for the next parcel that goes anyway, or for the next second.
_ACKS_MOST = 256

Message = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class Sent:
    """A call as it goes to the machine.

    Attributes:
        call: the user's handle.
        function: SHA-256 of the content that holds the function.
        sealed: the sealed arguments; where they are content by digest, the header alone that goes with it.
        blob: SHA-256 of that content, "" where there is none.
        group: calls of one group, which is not 0, may be made by one process, one after the other.
        timeout_s: seconds for which it may run there.
    """

    call: WarmCall[Any]
    function: str
    sealed: bytes
    blob: str = ""
    group: int = 0
    timeout_s: float | None = None

    def entry(self) -> dict[str, Any]:
        """What stands in front of it."""
        return {
            "n": self.call.number,
            "size": len(self.sealed),
            "blob": self.blob,
            "function": self.function,
            "group": self.group,
            "timeout_s": self.timeout_s,
        }


# What goes in front of the one call of a parcel of its own. `json` would take longer for it than the call's encryption.
_ENTRY = '{"calls": [{"n": %d, "size": %d, "blob": "%s", "function": "%s", "group": %d, "timeout_s": %s}]}'

# What a call is settled with: its result, what the machine says of it, and what it has printed.
_Result = tuple[Sent, BinaryIO, dict[str, Any], bytes, bytes]


class Coming:
    """A block in which calls are made ready; a class of its own, which takes a third of the time of a generator."""

    def __init__(self, line: WarmLine) -> None:
        self._line = line

    def __enter__(self) -> None:
        self._line.come(1)

    def __exit__(self, *_: object) -> None:
        self._line.come(-1)


class WarmLine:
    """Both directions of a warm run.

    Lifecycle: a session's `carry` opens it on each link that it makes, from a thread of its own; what comes arrives in
    the connection's thread, which settles a plain value at once, and leaves whatever may run the user's code, or send,
    to others. Any thread may send. It ends with the run on the machine.

    Args:
        run_id: the run.
        key: its key.
        fetch: brings the result of a call that is too large to come by itself to a file, checks it, and gives that.
        ledger: told of each call that has its result; written each second, and before results are acknowledged.
        greeted: set as soon as calls can be made there.
    """

    def __init__(
        self,
        run_id: str,
        key: bytes,
        fetch: Callable[[int], Path],
        ledger: Ledger | None = None,
        greeted: threading.Event | Moment | None = None,
    ) -> None:
        self._run_id, self._key = run_id, key
        self._fetch, self._ledger = fetch, ledger
        self.slots = 0
        self.pid = 0
        self.greeted = greeted or threading.Event()
        self._open: dict[int, Sent] = {}
        self._fetching: set[int] = set()
        self._acks: list[int] = []
        self._unwanted: set[int] = set()
        self._coming = 0
        self._closing = False
        self._over: BaseException | None = None
        self._changing = threading.Lock()
        self._generation = 0
        self._link: tuple[Link, int] | None = None
        # A way of its own for one call at a time, where the machine has one process that makes them all: the stream
        # that there is, the same from when that process has said that it listens, and the last call sent by it.
        self._wants_shortcut = False
        self._stream: Stream | None = None
        self._shortcut: Stream | None = None
        self._straight: Sent | None = None
        self._events: queue.SimpleQueue[Message | Exception | None] = queue.SimpleQueue()
        # Each has its threads from the first work on.
        self._fetchers = ThreadPoolExecutor(2, "dayfly-fetch")
        self._settlers = ThreadPoolExecutor(1, "dayfly-settle")

    # -- what the run's own process does

    def send(self, calls: Sequence[Sent]) -> None:
        """Sends calls, now if there is a link, and again on each new one until their results are here.

        What comes behind `fail` fails at once.
        """
        try:
            with self._changing:
                shortcut = self._shortcut if len(calls) == 1 and not self._open else None
                after = 0 if self._straight is None else self._straight.call.number
                more = {"after": after} if after in self._open else {}
                held = self._hold(calls)
                if shortcut is not None:
                    self._straight = calls[0]
            if not held:
                self._refuse(calls)
            elif shortcut is None or not _sent_straight(shortcut, calls[0]):
                # Not before the one that is on the shortcut: where one process makes all calls, they have an order.
                self._post(calls, more)
        except BaseException as error:
            # An interrupt, say: nobody has their handles, and what was not sent must not be waited for.
            for sent in calls:
                if self._take(sent.call.number) is not None:
                    sent.call.fail(error)
            raise

    def _hold(self, calls: Sequence[Sent]) -> bool:
        """Has them open until their results are here, unless none will come; whoever calls holds `_changing`."""
        if self._over is None:
            for sent in calls:
                self._open[sent.call.number] = sent
        return self._over is None

    def _refuse(self, calls: Sequence[Sent]) -> None:
        assert self._over is not None
        for sent in calls:
            sent.call.fail(self._over)
            self._enter(sent.call)

    def coming(self) -> Coming:
        """While calls are made ready: bringing what they need may take hours, in which the machine is not idle."""
        return Coming(self)

    def come(self, more: int) -> None:
        """So many more of those who make calls ready."""
        with self._changing:
            self._coming += more

    def stop(self, number: int) -> None:
        """Has the machine end a call; one that it does not know any more has its result on its way."""
        with self._changing:
            self._unwanted.add(number)
        self._post((), {"stop": [number]})

    def forgo(self, number: int) -> None:
        """No call of that number will be sent: the machine, which remembers numbers up to the first that is missing, is to know."""
        self._acknowledge(number)

    def close(self) -> None:
        """Has the run end on the machine, as soon as that can be told; what runs there is ended."""
        self._closing = True
        self._post((), {"close": True})

    def open_calls(self) -> list[WarmCall[Any]]:
        """Those without a result."""
        with self._changing:
            return [sent.call for sent in self._open.values()]

    def fail(self, error: BaseException) -> None:
        """No more results will come, and no more calls are taken."""
        with self._changing:
            if self._over is None:
                self._over = error
        for call in self.open_calls():
            # Whoever has taken it meanwhile has its result in hand.
            if self._take(call.number) is not None:
                call.fail(error)
                self._enter(call)
        self._fetchers.shutdown(wait=False)
        self._settlers.shutdown(wait=False)

    @property
    def over(self) -> BaseException | None:
        """Why no more calls are taken; None as long as they are."""
        return self._over

    def deliver(self, results: dict[int, bytes]) -> None:
        """Takes results that have come by another way, authentic for the run."""
        for number, result in results.items():
            sent = self._take(number)
            if sent is not None and not self._ended(sent, result):
                self._settle(sent, io.BytesIO(result), {}, b"", b"")

    # -- what the session does

    def open(self, link: Link, number: int) -> None:
        """Asks for the zygote on a new link; `number` is that of the request."""
        self._link = self._stream = self._shortcut = None
        while not self._events.empty():
            self._events.get_nowait()  # Of the link before.
        self._generation += 1
        link.post({"op": "warm", "id": number, "generation": self._generation})
        self._opening = (link, number)

    _opening: tuple[Link, int] | None = None

    def has_ended(self, within_s: float) -> bool:
        """Sees to what is to be seen to for a moment; True where the zygote has hung up.

        Raises:
            Exception: what broke the link.
        """
        try:
            event = self._events.get(timeout=within_s)
        except queue.Empty:
            event = None
        if event is None:
            self._write_ledger()
            if self._acks or self._coming:
                self._post((), {"coming": True} if self._coming else None)
            wants = self._wants_shortcut and self._stream is None and not self._closing
            if wants and self._link is not None:
                self._open_shortcut(self._link[0])
            return False
        if isinstance(event, Exception):
            self._link = None
            raise event
        head, _ = event
        if "shortcut" in head:
            head["shortcut"].close()
            self._send_once_more()
            return False
        if "hello" not in head:
            self._link = None
            _raise_refusal(head)
            return True
        hello = head["hello"]
        self.slots, self.pid = int(hello["slots"]), int(hello["pid"])
        self._link = self._opening
        self.greeted.set()
        with self._changing:
            again = [sent for n, sent in self._open.items() if n not in self._fetching]
            unwanted = sorted(self._unwanted)
        self._post(again)
        # Behind the calls: of one that has not arrived the machine would not know what to stop.
        self._post((), {"stop": unwanted, **({"close": True} if self._closing else {})})
        self._wants_shortcut = bool(hello.get("shortcut"))
        self._events.put(None)  # That it is opened, behind all this.
        return False

    def put(self, item: Message | Exception, /) -> None:
        """Takes what the link brings, in the connection's own thread."""
        if not isinstance(item, Exception) and item[1]:
            # A parcel of the zygote's; what has no body is the agent's own word.
            item = frames.decode(item[1])
        if isinstance(item, Exception) or "results" not in item[0]:
            self._events.put(item)
            return
        try:
            self._results(*item)
        except Forged as error:
            self._events.put(error)

    # -- the shortcut

    def _open_shortcut(self, link: Link) -> None:
        """Lends the machine a stream; a link that breaks meanwhile is seen elsewhere."""
        from dayfly.runtime.ssh.connection import Disconnected
        from dayfly.runtime.ssh.link import AgentRefused

        try:
            stream = link.lanes.shortcut(self._generation)
        except (Disconnected, Forged):
            return
        except AgentRefused:
            stream = None
        if stream is None:
            self._wants_shortcut = False
            return
        self._stream, inbox = stream, Inbox()
        stream.hand_to(
            lambda data: self._take_straight(stream, inbox, data),
            lambda: self._shortcut_ended(stream),
        )

    def _take_straight(self, stream: Stream, inbox: Inbox, data: bytes) -> None:
        """Takes what comes by it, in the connection's own thread."""
        try:
            for head, body in inbox.feed(data):
                if "ready" not in head:
                    self._results(head, body)
                elif self._stream is stream:
                    self._shortcut = stream
        except Exception as error:  # noqa: BLE001 - raised where the line is seen to
            self._events.put(error)

    def _shortcut_ended(self, stream: Stream) -> None:
        """Its process has ended, or has lost it; says so before it tells who sees to it, so that no call is sent after that."""
        if self._stream is stream:
            self._stream = self._shortcut = None
            self._events.put(({"shortcut": stream}, b""))

    def _send_once_more(self) -> None:
        """What was sent by a shortcut that has ended goes the usual way, as does its result, if there is one already."""
        with self._changing:
            sent = self._straight
            if sent is None or sent.call.number not in self._open:
                return
        self._post([sent], {"ask": [sent.call.number]})

    # -- results

    def _results(self, head: dict[str, Any], body: bytes) -> None:
        place, later = 0, list[_Result]()
        try:
            for entry in head["results"]:
                parts = []
                for size in (entry["size"], entry["out"], entry["err"]):
                    parts.append(body[place : place + size])
                    place += size
                later += self._result(entry, *parts)
        finally:
            if later:
                self._settle_aside(later)
        if len(self._acks) > _ACKS_MOST:
            # Sending them is not for this thread, which may have to bring the room for it.
            self._events.put(None)

    def _result(
        self, entry: dict[str, Any], sealed: bytes, stdout: bytes, stderr: bytes
    ) -> list[_Result]:
        """Takes one; gives it back where it is to be settled elsewhere."""
        number = entry["n"]
        if entry["file"]:
            self._fetch_result(entry, stdout, stderr)
            return []
        sent = self._take(number)
        content = b"" if sent is None else self._unsealed(sent, sealed)
        # Before anybody hears of it: who then closes would otherwise find it once more in the result of the run.
        self._acknowledge(number)
        if sent is None or self._ended(sent, content):
            return []
        result = io.BytesIO(content)
        if not sent.call.settle_plain(result, entry, stdout, stderr):
            return [(sent, result, entry, stdout, stderr)]
        self._enter(sent.call)
        return []

    def _ended(self, sent: Sent, result: bytes) -> bool:
        """Whether a call was ended with its run: then it waits to hear what has ended that."""
        ended = outcome.ended_with_its_run(result)
        if ended:
            with self._changing:
                held = self._hold([sent])
            if not held:
                self._refuse([sent])
        return ended

    def _acknowledge(self, number: int) -> None:
        with self._changing:
            self._acks.append(number)

    def _unsealed(self, sent: Sent, sealed: bytes) -> bytes:
        number = sent.call.number
        try:
            return frames.unseal(self._key, self._run_id, frames.call_result_seq(number), sealed)
        except frames.FrameError as error:
            forged = _forged(number, error)
            # It is open no more, so that what ends the run would not reach it.
            sent.call.fail(forged)
            self._enter(sent.call)
            raise forged from error

    def _settle_aside(self, results: Sequence[_Result]) -> None:
        """Settles them in a thread of their own, or, where that has been closed, here: they are known to nobody else."""

        def work() -> None:
            for each in results:
                self._settle(*each)

        try:
            self._settlers.submit(work)
        except RuntimeError:
            work()

    def _settle(
        self, sent: Sent, result: BinaryIO, entry: dict[str, Any], stdout: bytes, stderr: bytes
    ) -> None:
        try:
            sent.call.settle(result, entry, stdout, stderr)
        except Exception as error:  # noqa: BLE001 - of another version, perhaps; whoever waits must hear of it
            sent.call.fail(error)
        self._enter(sent.call)

    def _enter(self, call: WarmCall[Any]) -> None:
        if self._ledger is not None:
            self._ledger.enter(call.number, call.outcome, call.times)

    def _write_ledger(self) -> None:
        if self._ledger is not None:
            self._ledger.write()

    def _take(self, number: int) -> Sent | None:
        with self._changing:
            self._fetching.discard(number)
            self._unwanted.discard(number)
            return self._open.pop(number, None)

    def _fetch_result(self, entry: dict[str, Any], stdout: bytes, stderr: bytes) -> None:
        """Fetches a large one beside the others, at most two at once."""
        number = entry["n"]
        with self._changing:
            if number in self._fetching:
                return
            if number in self._open:
                self._fetching.add(number)
                sent: Sent | None = self._open[number]
            else:
                sent = None
        if sent is None:
            self._acknowledge(number)
            return
        try:
            self._fetchers.submit(self._fetched, sent, entry, stdout, stderr)
        except RuntimeError:
            # Closed, it has no call left that would not have been told; at the end of the process no pool takes any more work.
            if self._over is None:
                work = (sent, entry, stdout, stderr)
                threading.Thread(
                    target=self._fetched, args=work, name="dayfly-fetch", daemon=True
                ).start()

    def _fetched(self, sent: Sent, entry: dict[str, Any], stdout: bytes, stderr: bytes) -> None:
        number, began = sent.call.number, time.perf_counter()
        try:
            result = self._opened(self._fetch(number))
        except (DayflyError, OSError) as error:
            if self._take(number) is not None:
                sent.call.fail(error)
                self._enter(sent.call)
            return
        sent.call.times.download_s = time.perf_counter() - began
        self._acknowledge(number)
        with result:
            if self._take(number) is not None:
                self._settle(sent, result, entry, stdout, stderr)
        self._post(())

    @staticmethod
    def _opened(path: Path) -> BinaryIO:
        """A fetched result, which was checked while it came; its file goes with its last reader."""
        opened = path.open("rb")
        path.unlink()
        opened.seek(frames.HEADER_BYTES)
        return opened

    # -- sending

    def _post(self, calls: Iterable[Sent], more: dict[str, Any] | None = None) -> None:
        """Sends what there is; where the link breaks meanwhile, the next one carries it."""
        from dayfly.runtime.ssh.connection import Disconnected

        opened = self._link
        if opened is None:
            return
        if self._acks:
            self._write_ledger()
        with self._changing:
            acks, self._acks = self._acks, []
        try:
            for head, body in self._parcels(list(calls), {"ack": acks, **(more or {})}):
                opened[0].post({"op": "pass", "id": 0, "of": opened[1]}, frames.encode(head, body))
        except (Disconnected, Forged):
            return
        except BaseException:
            with self._changing:
                self._acks += acks
            raise

    @staticmethod
    def _parcels(calls: list[Sent], head: dict[str, Any]) -> Iterable[Message]:
        entries: list[dict[str, Any]] = []
        parts: list[bytes] = []
        size = 0
        for sent in calls:
            entries.append(sent.entry())
            parts.append(sent.sealed)
            size += len(sent.sealed) + 100
            if size >= _PARCEL_BYTES:
                yield {**head, "calls": entries}, b"".join(parts)
                head, entries, parts, size = {}, [], [], 0
        if entries or any(head.values()):
            yield {**head, "calls": entries}, b"".join(parts)


def _sent_straight(shortcut: Stream, sent: Sent) -> bool:
    from dayfly.runtime.ssh.connection import Disconnected

    timeout = "null" if sent.timeout_s is None else repr(float(sent.timeout_s))
    head = _ENTRY % (
        sent.call.number,
        len(sent.sealed),
        sent.blob,
        sent.function,
        sent.group,
        timeout,
    )
    try:
        shortcut.send(parcel(frames.joined(head.encode(), sent.sealed)))
    except Disconnected:
        return False
    except BaseException:
        # What was sent in part spoils all that would follow it.
        shortcut.close()
        raise
    return True


def _forged(number: int, error: Exception) -> Forged:
    return Forged(f"the result of call {number} is not authentic: {error}")


def _raise_refusal(head: dict[str, Any]) -> None:
    """A run that has ended takes no more calls; anything else that the agent refuses is an error."""
    from dayfly.runtime.ssh.link import AgentRefused

    if "error" in head and head["error"] != "ended":
        raise AgentRefused(head["error"], head["message"])
