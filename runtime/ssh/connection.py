"""Connection: one SSH connection with a pinned host key and one channel that runs one command; paramiko ends here."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko

from dayfly.errors import ConfigurationError, ConnectFailed, HostKeyMismatch
from dayfly.infra import port_map
from dayfly.infra.machine import Machine
from dayfly.infra.ssh_pin import algorithms
from dayfly.runtime.ssh.arrivals import Arrivals
from dayfly.runtime.ssh.proxy import Proxy
from dayfly.runtime.ssh.transport import Transport

# paramiko logs a dropped connection as an error; whoever holds the connection decides what it means.
logging.getLogger("dayfly.ssh").addHandler(logging.NullHandler())

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
_STDERR_BYTES = 4096
# As the protocol numbers it; every other refusal of a tunnel is about its port.
_PROHIBITED = 1
# A slow link takes its time with a frame; what finds a dead one is the silence of the machine.
_SEND_S = 3600.0


class Disconnected(Exception):
    """The connection could not be made or is gone; another try may well succeed."""


class Refused(Disconnected):
    """The machine does not accept the run's key; more tries help only where it has not learned it yet."""


class NobodyListens(Exception):
    """The machine is reached, and nothing listens on that port of its loopback, now."""


class _PromptSocket(socket.socket):
    """A socket that acknowledges at once while the connection is made.

    sshd has Nagle's algorithm on until a session starts, and would wait 40 ms for a delayed acknowledgement, twice.
    """

    _reads = 0
    heard = 0.0
    clock = staticmethod(time.monotonic)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        self._note(len(data))
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        count = super().recv_into(buffer, nbytes, flags)
        self._note(count)
        return count

    def close(self) -> None:
        """As of a socket, and whoever waits in it is woken, which closing alone does not do."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        super().close()

    def _note(self, count: int) -> None:
        if count:
            self.heard = self.clock()
        if self._reads < 100 and hasattr(socket, "TCP_QUICKACK"):
            self._reads += 1
            with contextlib.suppress(OSError):
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Connection:
    """One command on the machine, its stdin and stdout.

    Lifecycle: constructing does nothing, `open` connects, `close` may come any number of times and from any thread.

    Attributes:
        shown: the host key that the machine has shown, "" until it has.
    """

    def __init__(
        self, machine: Machine, user_key: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._machine, self._user_key, self._clock = machine, user_key, clock
        self.shown = ""
        self._socket: _PromptSocket | None = None
        self._proxy: Proxy | None = None
        self._transport: Transport | None = None
        self._channel: paramiko.Channel | None = None
        # paramiko's own time-out of a channel is for sending too, so waiting for bytes is done here.
        self._arrival = threading.Event()
        self._stderr = b""

    def open(self, command: str, timeout_s: float) -> None:
        """Connect, check the host key, log in and start `command`.

        Args:
            command: what is run there.
            timeout_s: for each step; all of it together has the bound of the caller's `closed_after`.

        Raises:
            HostKeyMismatch: the machine showed another key than the pinned one; nothing was sent to it.
            Disconnected: anything else that keeps it from being connected.
        """
        try:
            with _mapped(f"{self._machine.host}:{self._machine.port}"):
                self._connect(timeout_s)
                self._login(timeout_s)
                self._start(command)
        except Disconnected as error:
            self.close()
            said = self._proxy.said if self._proxy else ""
            if not said:
                raise
            # The last that whoever asked for a session hears of it.
            raise type(error)(f"{error}; on the way there: {said}") from error
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def closed_after(self, timeout_s: float) -> Iterator[None]:
        """Close this connection where the block is not over in time: some waits in it have no bound of their own.

        Those of paramiko's login are such, and sending to a machine that takes nothing more.
        """
        bound = threading.Timer(timeout_s, self.close)
        bound.daemon = True
        bound.start()
        try:
            yield
        finally:
            bound.cancel()

    def _connect(self, timeout_s: float) -> None:
        machine = self._machine
        if machine.via:
            self._proxy = Proxy(machine.via)
            self._socket = _PromptSocket(fileno=self._proxy.open().detach())
            self._socket.clock = self._clock
            self._socket.settimeout(timeout_s)
            return
        address = port_map.endpoint(machine.id, machine.host, machine.port)
        plain = socket.create_connection(address, timeout=min(timeout_s, 15))
        prompt = _PromptSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self._socket = prompt
        prompt.clock = self._clock
        prompt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        prompt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _login(self, timeout_s: float) -> None:
        assert self._socket is not None
        transport = Transport(self._socket)
        self._transport = transport
        transport.daemon = True
        transport.set_log_channel("dayfly.ssh")
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout_s
        pinned = self._machine.host_keys
        first = algorithms(pinned[0].partition(" ")[0])
        options = transport.get_security_options()
        options.ciphers = [name for name in _CIPHERS if name in options.ciphers]
        # The pinned type first; a server that has only others must be refused for its key, not for its algorithms.
        options.key_types = sorted(options.key_types, key=lambda name: name not in first)
        transport.start_client(timeout=timeout_s)
        shown = transport.get_remote_server_key()
        self.shown = f"{shown.get_name()} {shown.get_base64()}"
        if self.shown not in pinned:
            raise HostKeyMismatch(
                f"{self._machine.host}:{self._machine.port} showed the host key {shown.fingerprint}, "
                "which is not the one pinned for this run; nothing was sent to it"
            )
        key = paramiko.Ed25519Key.from_private_key_file(str(self._user_key))
        try:
            self._channel = transport.log_in(self._machine.user, key, timeout_s)
        except paramiko.AuthenticationException as error:
            # The same exception stands for a server that was silent, or went, before it had decided.
            if not transport.is_active() or "timeout" in str(error):
                raise
            raise Refused(
                f"{self._machine.host}:{self._machine.port} refused the run's key: {error}"
            ) from error
        # From here on its thread sleeps until something comes; closing the socket wakes it.
        self._socket.settimeout(None)

    def _start(self, command: str) -> None:
        channel = self._open_channel()
        channel.settimeout(_SEND_S)
        channel.in_buffer.set_event(self._arrival)
        transport = self._open_transport()
        transport.owing = self._arrival
        transport.execute(channel, command)

    def streams(self, path: str, count: int, timeout_s: float) -> list[Stream]:
        """Have the server connect to a Unix socket on the machine, `count` times; fewer times, or never, where it refuses.

        Raises:
            Disconnected: the connection went.
        """
        with _mapped("the connection"):
            transport = self._open_transport()
            return [
                Stream(transport, each) for each in transport.open_streams(path, count, timeout_s)
            ]

    def commands(self, command: str, count: int, timeout_s: float) -> list[Stream]:
        """Run `command` on as many channels of its own, at most `count`, as the server grants.

        Raises:
            Disconnected: the connection went.
        """
        with _mapped("the connection"):
            transport = self._open_transport()
            channels = transport.open_sessions(count, timeout_s)
            for each in channels:
                transport.execute(each, command)
            return [Stream(transport, each) for each in channels]

    @property
    def heard(self) -> float:
        """When anything arrived last, on this connection's clock.

        Also what is not for the channel's reader: a machine that takes in a large frame has nothing else to say.
        """
        return self._socket.heard if self._socket is not None else 0.0

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            Disconnected: the connection went, perhaps after a part of it.
        """
        channel = self._open_channel()
        with _mapped("the connection"):
            self._open_transport().send_all(channel, memoryview(data))

    def takes(self, size: int) -> bool:
        """Whether so many bytes could be sent now without waiting for the machine."""
        channel, connection = self._channel, self._socket
        if channel is None or connection is None or self._transport is None:
            return False
        try:
            line = select.poll()  # `select` itself knows a thousand files only
            line.register(connection, select.POLLOUT)
            room = channel.out_window_size >= size and self._transport.clear_to_send.is_set()
            return room and bool(line.poll(0))
        except (OSError, ValueError):
            # Closed under us: sending says so, and does not wait.
            return True

    def receive(self, size: int, timeout_s: float | None) -> bytes:
        """Give what has arrived, at most `size` bytes; nothing where the time is over, or now and then.

        Raises:
            Disconnected: the channel or the connection ended.
        """
        channel = self._open_channel()
        self._arrival.wait(timeout_s)
        if not (channel.recv_ready() or channel.eof_received or channel.closed):
            # Set by a message without content, or because something is owed; cleared first and looked at again, so that
            # nothing is missed.
            self._arrival.clear()
            with _mapped("the connection"):
                self._open_transport().grant()
            if not (channel.recv_ready() or channel.eof_received or channel.closed):
                return b""
        with _mapped("the connection"):
            data = channel.recv(size)
        if not data:
            raise Disconnected("the connection was closed")
        return data

    def hand_to(self, taker: Callable[[bytes], None]) -> None:
        """Have `taker` called with whatever arrives, in the connection's own thread, a thread's turn sooner than by `receive`.

        It must neither raise, nor send, nor wait for what only this connection can bring. Somebody has to be in `receive`
        all the time, which from then on waits for the end, and lets the server send more of what was taken.
        """
        _hand_to(self._open_transport(), self._open_channel(), taker, None)

    def complaint(self) -> tuple[int, str]:
        """Give the command's exit code (-1 while it runs) and the end of what it wrote to stderr."""
        channel = self._open_channel()
        with contextlib.suppress(Exception):
            channel.status_event.wait(2)
            while channel.recv_stderr_ready():
                self._stderr = (self._stderr + channel.recv_stderr(1 << 16))[-_STDERR_BYTES:]
        code = channel.exit_status if channel.exit_status_ready() else -1
        return code, self._stderr.decode(errors="replace").strip()

    def tunnel(self, port: int, timeout_s: float, host: str = "127.0.0.1") -> paramiko.Channel:
        """Open a channel to a port of the machine's loopback, or of a host that it reaches.

        Raises:
            NobodyListens: there, at least now.
            ConnectFailed: the machine's SSH server forbids it.
            Disconnected: the connection went.
        """
        if self._transport is None:
            raise Disconnected("not connected")
        target, source = (host, port), ("127.0.0.1", 0)
        with _mapped("the connection"):
            try:
                return self._transport.open_channel(
                    "direct-tcpip", target, source, timeout=timeout_s
                )
            except paramiko.ChannelException as refusal:
                machine = f"{self._machine.host}:{self._machine.port}"
                if refusal.code == _PROHIBITED:
                    raise ConnectFailed(
                        f"the SSH server of {machine} forbids forwarding: set AllowTcpForwarding yes in its sshd_config"
                    ) from refusal
                raise NobodyListens(f"nobody listens on port {port} of {machine} yet") from refusal

    def listen(
        self, ports: Sequence[int], taker: Callable[[paramiko.Channel, int], None], timeout_s: float
    ) -> list[int]:
        """Have the server listen on ports of the machine's loopback; gives those on which it does not.

        Args:
            ports: of the machine.
            taker: gets a channel for each connection to one of them, and which port that was; must wait for nothing.
            timeout_s: for all of them.

        Raises:
            Disconnected: the connection went.
        """
        with _mapped("the connection"):
            return self._open_transport().listen_there(ports, taker, timeout_s)

    def _open_channel(self) -> paramiko.Channel:
        if self._channel is None:
            raise Disconnected("not connected")
        return self._channel

    def _open_transport(self) -> Transport:
        if self._transport is None:
            raise Disconnected("not connected")
        return self._transport

    def close(self) -> None:
        """Close socket, channel and connection; whoever waits on them is told."""
        if self._transport is not None:
            with contextlib.suppress(Exception):
                self._transport.close()
        if self._socket is not None:
            self._socket.close()
        if self._proxy is not None:
            self._proxy.close()


class Stream:
    """One more channel of a connection, for bytes in both directions."""

    def __init__(self, transport: Transport, channel: paramiko.Channel) -> None:
        self._transport, self._channel = transport, channel
        channel.settimeout(_SEND_S)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of `data`.

        Raises:
            Disconnected: it went, perhaps after a part of it.
        """
        try:
            self._transport.send_all(self._channel, memoryview(data))
        except Exception as error:
            raise _as_disconnected("the connection", error) from error

    def receive(self, size: int) -> bytes:
        """Give what arrives next, at most `size` bytes.

        Raises:
            Disconnected: it ended.
        """
        return b"".join(self.receive_parts(size))

    def receive_parts(self, size: int) -> list[bytes]:
        """As `receive`, in the parts in which it came.

        Raises:
            Disconnected: it ended.
        """
        with _mapped("the connection"):
            parts = self._transport.receive_parts(self._channel, size)
        if not parts:
            raise Disconnected("a stream was closed")
        return parts

    def hand_to(self, taker: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """As `Connection.hand_to`; `ended` is called when nothing more comes, and must wait for nothing at all."""
        _hand_to(self._transport, self._channel, taker, ended)

    def close(self) -> None:
        """Close this channel alone."""
        with contextlib.suppress(Exception):
            self._channel.close()


def _hand_to(
    transport: Transport,
    channel: paramiko.Channel,
    taker: Callable[[bytes], None],
    ended: Callable[[], None] | None,
) -> None:
    arrivals = channel.in_buffer
    assert isinstance(arrivals, Arrivals)

    def take(data: bytes) -> None:
        taker(data)
        transport.taken(channel, len(data))

    arrivals.hand_to(take, ended)


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    """Turn everything that paramiko and the network raise into Disconnected."""
    try:
        yield
    except (ConfigurationError, ConnectFailed, Disconnected, NobodyListens):
        raise
    except Exception as error:
        raise _as_disconnected(what, error) from error


def _as_disconnected(what: str, error: Exception) -> Disconnected:
    """What has ended paramiko's reader is raised in whoever waits: also what its cipher or its parser says of a changed
    byte, and an AttributeError where its socket is closed under a call that is under way."""
    return Disconnected(f"{what}: {error or type(error).__name__}")
