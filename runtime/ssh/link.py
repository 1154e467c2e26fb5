"""Link: the agent of one run at the other end of one connection; many requests at once, every frame authenticated."""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dayfly.errors import ConnectFailed, Forged
from dayfly.infra.machine import Machine
from dayfly.runtime.agent import frames
from dayfly.runtime.agent import lanes as agent_lanes
from dayfly.runtime.agent.digests import sha256_of
from dayfly.runtime.packing import Line, Packing, best
from dayfly.runtime.ssh import bootstrap
from dayfly.runtime.ssh.connection import Connection, Disconnected
from dayfly.runtime.ssh.lanes import Lanes
from dayfly.runtime.ssh.watch import Watch

if TYPE_CHECKING:
    from paramiko import Channel

# A dead link is noticed within 30 s of its last word: three pings and the second between two looks at it.
PING_EVERY_S = 9.0
PINGS_MISSED = 3
_LOOKS_A_PING = 9
# More than a ping takes, sealed and in its packet.
_PING_BYTES = 1024
_RECEIVE_BYTES = 4 << 20
_GREETING_BYTES = 64 << 10
# What answers with content; everything else is small, or is to come at once.
_CONTENT = ("files", "get")

Message = tuple[dict[str, Any], bytes]
Body = bytes | memoryview
# One thread for all links: two hundred of them would wake up two hundred times as often.
watch = Watch(lambda: PING_EVERY_S / _LOOKS_A_PING)


class Taker(Protocol):
    """Takes what belongs to a request, in the connection's own thread; an exception where the link has broken."""

    def put(self, item: Message | Exception, /) -> None:
        """Take one; must neither wait for long nor for the link, nor send anything, nor run the user's code."""


class AgentRefused(Exception):
    """The agent answered "no"; `kind` is its word for why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Link:
    """The agent, spoken to over a connection of its own.

    Lifecycle: constructing does nothing, `open` connects and starts the agent, `close` ends both (the job goes on).
    A link that broke stays broken: every request on it, waiting or new, raises what broke it.

    Attributes:
        lanes: further channels of its connection, for large content.
        round_trip_s: the shortest time that any answer has taken.
        codec: what content may be packed by on its way, "" for nothing; `upward` and `downward` are what is known of the line.
    """

    def __init__(
        self,
        machine: Machine,
        user_key: Path,
        run_id: str,
        hmac_key: bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine, self._run_id, self._key = machine, run_id, hmac_key
        self._clock = clock
        self._connection = Connection(machine, user_key, clock)
        nonce = secrets.token_bytes(16)
        self._opening = nonce + hmac_key + bytes.fromhex(run_id)
        self._send_key, self._receive_key = frames.channel_keys(hmac_key, nonce)
        self._sending = threading.Lock()
        self._waiting: dict[int, Taker] = {}
        self._changing = threading.Lock()
        self._next = 1
        self._sent = self._received = 0
        self._broken: Exception | None = None
        self._heard = self._pinged = self._looked = clock()
        self.round_trip_s = math.inf
        self.codec = ""
        self.upward, self.downward = Line(), Line()
        self._waits: threading.Thread | None = None
        self._arrived = bytearray()
        self.lanes = Lanes(
            self, self._connection, run_id, functools.partial(agent_lanes.lane_key, hmac_key, nonce)
        )

    # -- lifetime

    def open(self, timeout_s: float, *, bring: bool = True) -> None:
        """Connect and bring the agent to its first frame.

        Args:
            timeout_s: all of it, in seconds.
            bring: send the agent along unasked, which spares a new machine a round trip.

        Raises:
            HostKeyMismatch: another key than the pinned one.
            ConnectFailed: the machine has no Python that could run the agent, or a folder that is not its user's own.
            Disconnected: it could not be reached; another try may succeed.
        """
        until = time.monotonic() + timeout_s
        try:
            with self._connection.closed_after(timeout_s):
                command = bootstrap.command(self._run_id, self._machine.cache_dir)
                self._connection.open(command, timeout_s)
                # Sent before anything is known of the machine: the answer needs no round trip of its own.
                block = bootstrap.agent_block() if bring else bootstrap.NO_AGENT
                self._connection.send(self._opening + block)
                if self._greeting(until) == bootstrap.NEED_AGENT:
                    self._connection.send(bootstrap.agent_block())
                self._first_frame(until)
        except BaseException:
            self.close()
            raise
        self._heard = self._pinged = self._looked = self._clock()
        self._waits = threading.Thread(target=self._await_end, name="dayfly-link", daemon=True)
        watch.add(self)
        # What has come behind the first frame, before there is a thread for it.
        self._take(b"")
        self._connection.hand_to(self._take)
        self._waits.start()

    def _greeting(self, until: float) -> bytes:
        """Read up to the stub's mark; a login shell's start files may have written something before it."""
        while bootstrap.MARK not in self._arrived[:-1]:
            if len(self._arrived) > _GREETING_BYTES:
                raise ConnectFailed(
                    "the machine's login shell writes without end and starts nothing"
                )
            self._receive(until)
        place = self._arrived.index(bootstrap.MARK) + len(bootstrap.MARK)
        answer = bytes(self._arrived[place : place + 1])
        del self._arrived[: place + 1]
        if answer == bootstrap.TOO_OLD:
            raise self._no_python()
        return answer

    def _receive(self, until: float) -> None:
        try:
            data = self._connection.receive(_RECEIVE_BYTES, max(0.01, until - time.monotonic()))
        except Disconnected:
            code, words = self._connection.complaint()
            if code == 127 or "python3" in words:
                raise self._no_python() from None
            if code > 0:
                raise ConnectFailed(
                    f"the agent did not start (exit code {code}): {words}"
                ) from None
            raise
        if not data:
            raise Disconnected("the agent did not answer in time")
        self._arrived += data

    def _no_python(self) -> ConnectFailed:
        words = self._connection.complaint()[1]
        return ConnectFailed(
            f"{self._machine.host} has no Python 3.8 or newer on its PATH, which the agent needs; "
            f"install python3 there. It said: {words or 'nothing'}"
        )

    def _first_frame(self, until: float) -> None:
        while (message := self._take_frame()) is None:
            self._receive(until)
        assert message[0]["id"] == 0
        self.codec = best(message[0].get("codecs"))

    def close(self) -> None:
        """End the connection; whoever waits for an answer is told."""
        self._connection.close()
        self._break(Disconnected("the session was closed"))
        if self._waits is not None and self._waits is not threading.current_thread():
            self._waits.join(timeout=5)

    @property
    def heard(self) -> float:
        """When anything arrived last, on this link's clock."""
        return max(self._heard, self._connection.heard)

    @property
    def host_key(self) -> str:
        """The host key that the machine has shown."""
        return self._connection.shown

    @property
    def broken(self) -> bool:
        return self._broken is not None

    # -- requests

    def ask(self, head: dict[str, Any], body: Body = b"") -> dict[str, Any]:
        """Send a request and give its answer.

        Raises:
            AgentRefused: the agent said no.
            Disconnected: the link broke before the answer came.
            Forged: a frame was not authentic; the link is closed.
        """
        began = time.monotonic()
        *_, (answer, _) = self.stream(head, body)
        self.round_trip_s = min(self.round_trip_s, time.monotonic() - began)
        return answer

    def send(self, head: dict[str, Any], body: Body = b"") -> Callable[[], dict[str, Any]]:
        """Send a request of one answer without waiting for it; what is given waits for it, as `ask` does."""
        arriving: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
        number = self.subscribe(arriving)
        self.post({**head, "id": number}, body)

        def answer() -> dict[str, Any]:
            message = arriving.get()
            self.unsubscribe(number)
            return _accepted(message)[0]

        return answer

    def stream(
        self, head: dict[str, Any], body: Body = b"", *, wake_s: float | None = None
    ) -> Iterator[Message]:
        """Send a request, and give every message that belongs to it as it comes, the answer last.

        After each `wake_s` without one, an empty message is given.
        """
        arriving: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
        number = self.subscribe(arriving)
        try:
            self.post({**head, "id": number}, body)
        except BaseException:
            self.unsubscribe(number)
            raise
        packing = Packing(self.codec, self.downward) if head.get("op") in _CONTENT else None
        return self._messages(number, arriving, wake_s, packing)

    def _messages(
        self,
        number: int,
        arriving: queue.SimpleQueue[Message | Exception],
        wake_s: float | None,
        packing: Packing | None,
    ) -> Iterator[Message]:
        owed = taken = 0
        try:
            while True:
                # Bounded also without `wake_s`: a silent link is broken by the watch, and all are told.
                try:
                    message = arriving.get(timeout=wake_s)
                except queue.Empty:
                    yield {}, b""
                    continue
                answer, data = _accepted(message)
                if packing is not None:
                    data = packing.opened(answer, data)
                yield answer, data
                if answer.get("done"):
                    return
                owed += len(data)
                if owed >= frames.CHUNK_BYTES:
                    credit = {"op": "credit", "id": 0, "of": number, "bytes": owed}
                    if packing is not None:
                        packing.arrived(taken := taken + owed)
                        credit["codec"] = packing.wished()
                    # What has arrived on a link that broke since is given first; then comes what broke it.
                    with contextlib.suppress(Disconnected):
                        self.post(credit)
                    owed = 0
        finally:
            self.unsubscribe(number)

    def subscribe(self, taker: Taker) -> int:
        """Give the number of a request that is to be posted, all of whose messages `taker` gets."""
        with self._changing:
            if self._broken is not None:
                raise self._broken
            number, self._next = self._next, self._next + 1
            self._waiting[number] = taker
        return number

    def unsubscribe(self, number: int) -> None:
        """Nothing of that request is wanted any more."""
        with self._changing:
            self._waiting.pop(number, None)

    def post(self, head: dict[str, Any], body: Body = b"") -> None:
        """Send a frame that needs no answer, or whose answer is awaited elsewhere.

        A frame that was sent in part spoils all that would follow it, so the link breaks with it.
        """
        payload = frames.encode(head, body)
        with self._sending:
            self._send(payload)

    def _send(self, payload: bytes) -> None:
        """Seal a frame and send it; whoever calls holds `_sending`."""
        frame = frames.seal(self._send_key, self._run_id, self._sent, payload)
        self._sent += 1
        try:
            self._connection.send(frame)
        except Disconnected as error:
            # Whoever reads closes the connection that it found fault with, and knows better why.
            raise self.fail(error) from None
        except BaseException:
            self.fail(Disconnected("a frame was sent only in part"))
            raise

    def fail(self, error: Exception) -> Exception:
        """Break the link and close its connection, so that whoever waits hears of it; gives what broke it first."""
        self._break(error)
        self._connection.close()
        return self._broken or error

    def tunnel(self, port: int, timeout_s: float, host: str = "127.0.0.1") -> Channel:
        """Open a channel to a port of the machine's loopback, or of a host that it reaches, beside the agent's own.

        Raises:
            NobodyListens, ConnectFailed, Disconnected: as the connection does.
        """
        if self._broken is not None:
            raise self._broken
        return self._connection.tunnel(port, timeout_s, host)

    def listen(
        self, ports: Sequence[int], taker: Callable[[Channel, int], None], timeout_s: float
    ) -> list[int]:
        """Have the machine's server listen on ports of its loopback while this link lives; gives those on which it does not.

        Raises:
            Disconnected: as the connection does.
        """
        if self._broken is not None:
            raise self._broken
        return self._connection.listen(ports, taker, timeout_s)

    # -- the other direction

    def _take(self, data: bytes) -> None:
        """Hand every frame that is whole to whoever waits for it."""
        if self._broken is not None:
            return
        self._arrived += data
        self._heard = self._clock()
        try:
            while (message := self._take_frame()) is not None:
                self._deliver(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, everyone who waits must hear of it
            self.fail(error)

    def _await_end(self) -> None:
        """Break the link when its connection ends, for whatever reason."""
        try:
            while True:
                self._connection.receive(_RECEIVE_BYTES, None)
        except Exception as error:  # noqa: BLE001 - whatever ended it, everyone who waits must hear of it
            self.fail(error)

    def _take_frame(self) -> Message | None:
        """Take one whole frame from what has arrived; nothing of it is looked at before it is verified."""
        if len(self._arrived) < frames.HEADER_BYTES:
            return None
        header = bytes(self._arrived[: frames.HEADER_BYTES])
        try:
            length, digest = frames.open_header(
                self._receive_key, self._run_id, self._received, header
            )
            size = frames.HEADER_BYTES + length
            if length > frames.FRAME_BYTES_MAX:
                raise frames.FrameError(f"a frame of {length} bytes")
            if len(self._arrived) < size:
                return None
            payload = bytes(memoryview(self._arrived)[frames.HEADER_BYTES : size])
            frames.check_payload(len(payload), sha256_of(payload), length, digest)
        except frames.FrameError as error:
            raise Forged(f"a frame from {self._machine.host} is not authentic: {error}") from error
        del self._arrived[:size]
        self._received += 1
        return frames.decode(payload)

    def _deliver(self, message: Message) -> None:
        with self._changing:
            arriving = self._waiting.get(message[0]["id"])
        if arriving is not None:
            arriving.put(message)

    def look(self) -> None:
        """Break a link that has been silent for too long, and ping one whose time has come; the watch calls it."""
        now = self._clock()
        # This process was stopped, or had no time: what has come meanwhile is not read yet, so the next look judges.
        away, self._looked = now - self._looked > PING_EVERY_S, now
        if not away and now - self.heard > PING_EVERY_S * PINGS_MISSED:
            self.fail(
                Disconnected(f"the machine was silent for {PING_EVERY_S * PINGS_MISSED:.0f} s")
            )
        elif now - self._pinged >= PING_EVERY_S:
            self._pinged = now
            self._ping()

    def _ping(self) -> None:
        """Ask for a sign of life, unless that would have to wait: a link on which something is being sent needs none,
        and no other link may wait for this one."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            if self._connection.takes(_PING_BYTES):
                with contextlib.suppress(Disconnected, Forged):
                    self._send(frames.encode({"op": "ping", "id": 0}, b""))
        finally:
            self._sending.release()

    def _break(self, error: Exception) -> None:
        watch.remove(self)
        with self._changing:
            if self._broken is None:
                self._broken = error
            for arriving in self._waiting.values():
                arriving.put(self._broken)


def _accepted(message: Message | Exception) -> Message:
    if isinstance(message, Exception):
        raise message
    if "error" in message[0]:
        raise AgentRefused(message[0]["error"], message[0]["message"])
    return message
