"""Transport: paramiko's SSH connection with fewer round trips, no deadlock at a new key exchange, and large data at once."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.channel import Channel
from paramiko.message import Message

from dayfly.runtime.ssh import packets
from dayfly.runtime.ssh.arrivals import Arrivals

R = TypeVar("R")
_WINDOW_BYTES = 16 << 20
_PACKET_BYTES = 256 << 10
# So many packets of a channel are encrypted and sent under one lock; others wait for that long at most.
_BULK_PACKETS = 8
# Only there: what is to be reached from elsewhere has no business in a run.
_LOOPBACK = "127.0.0.1"
# A new key exchange stops the line for a round trip; OpenSSH's own limit is of this order for AES.
_REKEY_BYTES = 32 << 30


class _Eager(AuthHandler):
    """Asks to be let in together with the request for the service that decides it: one round trip less."""

    def _request_auth(self) -> None:
        super()._request_auth()  # type: ignore[misc]
        super()._parse_service_accept(Message(b"\0\0\0\x0cssh-userauth"))  # type: ignore[misc]

    def _parse_service_accept(self, m: Message) -> None:
        """What it would answer has been sent already."""


class _Answer:
    """What the server says to a request that is about no channel."""

    def __init__(self) -> None:
        self.given = threading.Event()
        self.granted = False


class Transport(paramiko.Transport):
    """paramiko's own, waking up rarely: an idle connection should cost nothing."""

    _active_check_timeout = 5.0

    if TYPE_CHECKING:
        active: bool
        _expected_packet: tuple[int, ...]
        _send_message: Callable[[Message], None]
        clear_to_send: threading.Event
        clear_to_send_lock: threading.Lock
        clear_to_send_timeout: float
        lock: threading.Lock
        channel_events: dict[int, threading.Event]
        channels_seen: dict[int, bool]
        _channels: Any
        _tcp_handler: Any

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(
            connection,
            default_window_size=_WINDOW_BYTES,
            default_max_packet_size=_PACKET_BYTES,
            packetizer_class=packets.packetizer_class(),
        )
        self.packetizer.REKEY_BYTES = self.packetizer.REKEY_PACKETS = _REKEY_BYTES
        self._sends_data = hasattr(self.packetizer, "send_data")
        self.packetizer.deliver = self._deliver  # type: ignore[attr-defined]
        self._later: deque[Message] = deque()
        self._asked: deque[_Answer] = deque()
        self._asking = threading.Lock()
        self._owed: deque[tuple[Any, int]] = deque()
        self.owing: threading.Event | None = None

    def log_in(self, user: str, key: paramiko.PKey, timeout_s: float) -> Channel:
        """Authenticate with a key, as `auth_publickey`, and open the first channel for a command.

        The channel is asked for at once: what follows a request that is granted is passed on (RFC 4252, 5.1).
        """
        asked, decided = _Eager(self), threading.Event()
        self.auth_handler = asked
        asked.auth_publickey(user, key, decided)
        opening = self._begin("session", b"")
        asked.wait_for_response(decided)
        channels = self._opened([opening], timeout_s)
        if not channels:
            raise paramiko.SSHException("the server lets nobody in for a command")
        return channels[0]

    # -- key exchange

    def _send_user_message(self, data: Message) -> None:
        """Send when no key exchange is under way.

        This connection's own thread cannot wait for the end of one, since it is the one that carries it out; what it
        has to say (that it has heard of a channel's end, above all) is kept until then.
        """
        if threading.current_thread() is not self:
            if self.active:  # Else nobody is there whom it could concern.
                self._when_clear(lambda: self._send_message(data))
            return
        with self.clear_to_send_lock:
            if self.clear_to_send.is_set():
                self._send_message(data)
            else:
                self._later.append(data)

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        while self._later:
            self._send_user_message(self._later.popleft())

    def _when_clear(self, act: Callable[[], R]) -> R:
        """Do it while no key exchange is under way.

        Raises:
            EOFError: the connection was closed.
            SSHException: one did not come to its end.
        """
        until = 0.0
        while True:
            if not self.active:
                raise EOFError("the connection was closed")
            # Held so that none begins meanwhile, and by `with`, which an interrupt does not leave locked.
            with self.clear_to_send_lock:
                if self.clear_to_send.is_set():
                    return act()
            until = until or time.monotonic() + self.clear_to_send_timeout
            if time.monotonic() > until:
                raise paramiko.SSHException("the key exchange did not come to an end")
            self.clear_to_send.wait(0.1)

    def _deliver(self, number: int, data: bytes) -> bool:
        """Give a channel what has come for it; in the midst of a key exchange paramiko says what may come."""
        channel = None if self._expected_packet else self._channels.get(number)
        if channel is None:
            return False
        channel.in_buffer.feed(data)
        return True

    # -- large data

    def send_all(self, channel: Channel, data: memoryview) -> None:
        """Send all of `data` on a channel, as its `sendall`; what is large in several packets at a time."""
        packet_bytes = min(channel.out_max_packet_size, _PACKET_BYTES) - 64
        while self._sends_data and data:
            size = self._take_window(channel, min(len(data), _BULK_PACKETS * packet_bytes))
            send = functools.partial(
                self.packetizer.send_data,  # type: ignore[attr-defined]
                channel.remote_chanid,
                data[:size],
                packet_bytes,
            )
            if not self._when_clear(send):
                with channel.lock:
                    channel.out_window_size += size
                break
            data = data[size:]
        if data:
            # A memoryview, since paramiko would copy the rest of the bytes for each packet.
            channel.sendall(data)  # type: ignore[arg-type]

    @staticmethod
    def _take_window(channel: Any, most: int) -> int:
        with channel.lock:
            if channel.closed:
                raise EOFError("the channel was closed")
            if channel.out_window_size >= most and not channel.eof_sent:
                channel.out_window_size -= most
                return most
            size = int(channel._wait_for_send_window(most))
            if not size:
                raise EOFError("the channel was closed")
            more = min(most - size, int(channel.out_window_size))
            channel.out_window_size -= more
        return size + more

    def receive_parts(self, channel: Any, size: int) -> list[bytes]:
        """As a channel's `recv`, in the parts in which it came; none where no more comes.

        Raises:
            PipeTimeout: nothing came in the channel's time.
        """
        parts: list[bytes] = channel.in_buffer.read_parts(size, channel.timeout)
        more = channel._check_add_window(sum(map(len, parts)))
        if more > 0:
            self._send_user_message(_window_of(channel, more))
        return parts

    def taken(self, channel: Any, size: int) -> None:
        """So many bytes of a channel were taken in this connection's own thread, which must not send: others would have
        to be done first, and what they wait for may be what it reads. `owing` is set when `grant` has something to do.
        """
        more = channel._check_add_window(size)
        if more > 0:
            self._owed.append((channel, more))
            if self.owing is not None:
                self.owing.set()

    def grant(self) -> None:
        """Let the server send as much more as was taken, as `recv` does."""
        while self._owed:
            channel, more = self._owed.popleft()
            self._send_user_message(_window_of(channel, more))

    # -- channels

    def open_streams(self, path: str, count: int, timeout_s: float) -> list[Channel]:
        """Have the server connect `count` channels to a Unix socket over there; fewer where it refuses."""
        # What follows the path has no meaning yet.
        more = Message().add_string(path).add_string("").add_int(0)
        return self._open("direct-streamlocal@openssh.com", more.asbytes(), count, timeout_s)

    def open_sessions(self, count: int, timeout_s: float) -> list[Channel]:
        """Open `count` channels that a command can be started on; fewer where the server refuses."""
        return self._open("session", b"", count, timeout_s)

    def _open(self, kind: str, more: bytes, count: int, timeout_s: float) -> list[Channel]:
        """All at once, so that it takes one round trip; paramiko's own way takes one each."""
        return self._opened([self._begin(kind, more) for _ in range(count)], timeout_s)

    def _opened(
        self, opening: Sequence[tuple[Channel, threading.Event]], timeout_s: float
    ) -> list[Channel]:
        """Wait for the server's word on each; gives those that it has opened."""
        until = time.monotonic() + timeout_s
        for _, answered in opening:
            while not answered.wait(0.1):
                if time.monotonic() > until:
                    raise paramiko.SSHException(
                        "the server did not answer whether it opens a channel"
                    )
        if not self.is_active():
            raise EOFError("the connection was closed")
        self.get_exception()  # What a refusal has left there is not the next caller's.
        return [
            channel for channel, _ in opening if self._channels.get(channel.get_id()) is channel
        ]

    def _begin(self, kind: str, more: bytes) -> tuple[Channel, threading.Event]:
        with self.lock:
            number, answered = self._next_channel(), threading.Event()  # type: ignore[attr-defined]
            channel: Any = Channel(number)
            self._channels.put(number, channel)
            self.channel_events[number], self.channels_seen[number] = answered, True
            channel._set_transport(self)
            channel._set_window(_WINDOW_BYTES, _PACKET_BYTES)
            channel.in_buffer = Arrivals()
        message = Message().add_byte(b"\x5a").add_string(kind)
        for value in (number, _WINDOW_BYTES, _PACKET_BYTES):
            message.add_int(value)
        self._send_user_message(message.add_bytes(more))
        return channel, answered

    # -- the other way round

    def listen_there(
        self, ports: Sequence[int], taker: Callable[[Channel, int], None], timeout_s: float
    ) -> list[int]:
        """Have the server listen on ports of its loopback, asked for all at once; gives those on which it does not.

        Args:
            ports: of the machine.
            taker: gets a channel for each connection to one of them, and which port that was, in the thread that reads
                this connection: it must wait for nothing. One for all ports.
            timeout_s: for all answers together.
        """
        self._tcp_handler = lambda channel, _, place: taker(channel, place[1])
        until = time.monotonic() + timeout_s
        refused = []
        for port, answer in [(port, self._ask_to_listen(port)) for port in ports]:
            while not answer.given.wait(0.1):
                if not self.is_active():
                    raise EOFError("the connection was closed")
                if time.monotonic() > until:
                    raise paramiko.SSHException("the server did not answer whether it listens")
            if not answer.granted:
                refused.append(port)
        return refused

    def _ask_to_listen(self, port: int) -> _Answer:
        message = Message().add_byte(b"\x50").add_string("tcpip-forward")
        message.add_boolean(True).add_string(_LOOPBACK).add_int(port)
        answer = _Answer()
        # Answers come in the order of the questions, and have nothing else to be known by.
        with self._asking:
            self._asked.append(answer)
            self._send_user_message(message)
        return answer

    def _parse_request_success(self, m: Message) -> None:
        self._answered(granted=True)

    def _parse_request_failure(self, m: Message) -> None:
        self._answered(granted=False)

    def _answered(self, *, granted: bool) -> None:
        if self._asked:
            answer = self._asked.popleft()
            answer.granted = granted
            answer.given.set()

    def execute(self, channel: Channel, command: str) -> None:
        """Start a command on a channel, without waiting for the server to say that it has."""
        message = Message()
        message.add_byte(b"\x62")
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        # With an answer, which closes the channel here where it is a refusal.
        message.add_boolean(True)
        message.add_string(command)
        channel._event_pending()  # type: ignore[attr-defined]
        self._send_user_message(message)


def _window_of(channel: Any, more: int) -> Message:
    """What lets the server send so much more on a channel."""
    return Message().add_byte(b"\x5d").add_int(channel.remote_chanid).add_int(more)
