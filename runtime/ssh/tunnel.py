"""Tunnel: a port of this computer's loopback that leads to a port of the machine's, through the run's own connection."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

import paramiko

from dayfly.errors import ConfigurationError, DayflyError
from dayfly.runtime.ssh.connection import Disconnected, NobodyListens

_CHUNK_BYTES = 256 << 10
# Whoever connects while another accepts waits in line, as at any server.
_BACKLOG = 128
# No shutdown wakes a thread that waits for a reader, but one that the reader would take for a clean end.
_LOOK_MS = 500


class Tunnel:
    """Every connection to `127.0.0.1:port` here becomes one to the same kind of port there; as many at once as come.

    One that breaks off with the run's connection is reset, so that nobody takes a part for the whole; the next goes
    through the connection that is made anew.

    Lifecycle: constructing does nothing, entering listens, leaving closes all that is open; `close` may come twice.

    Attributes:
        port: of this computer; 0 until it listens, where any free one was asked for.
    """

    def __init__(
        self,
        channel: Callable[[], paramiko.Channel],
        local_port: int = 0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing listens yet.

        Args:
            channel: opens a channel to the port there.
            local_port: of this computer; 0 for any that is free.
            note: told once of each reason why a connection could not be made.
        """
        self._channel, self._note = channel, note
        self.port = local_port
        self._noted: set[str] = set()
        self._listener: socket.socket | None = None
        self._joints: set[_Joint] = set()
        self._changing = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def address(self) -> str:
        """Where to connect to: "127.0.0.1:8888"."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Tunnel:
        """Listens.

        Raises:
            ConfigurationError: the port is taken here, or not ours to take.
        """
        try:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=_BACKLOG)
        except OSError as error:
            raise ConfigurationError(
                f"port {self.port} of this computer cannot be listened on ({error.strerror}); name another, or 0 for any"
            ) from error
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening, and resets what is open."""
        with self._changing:
            self._closed = True
            joints = list(self._joints)
        if self._listener is not None:
            # Closing alone would leave the thread in its accept.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for joint in joints:
            joint.abandon()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="dayfly tunnel", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            while True:
                self._start(self._connect, self._listener.accept()[0])

    def _connect(self, near: socket.socket) -> None:
        """Joins a connection of this computer to one there, and sees it to its end."""
        try:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            joint = _Joint(near, self._channel())
        except (DayflyError, Disconnected, NobodyListens, OSError) as error:
            _reset(near)
            self._tell(str(error))
            return
        with self._changing:
            self._joints.add(joint)
            closed = self._closed
        if closed:
            joint.abandon()
        joint.see_out()
        with self._changing:
            self._joints.discard(joint)

    def _tell(self, reason: str) -> None:
        with self._changing:
            known = reason in self._noted or self._closed
            self._noted.add(reason)
        if not known:
            self._note(reason)


class _Joint:
    """One connection here and its channel: bytes both ways, each way ended by itself."""

    def __init__(self, near: socket.socket, far: paramiko.Channel) -> None:
        self._near, self._far = near, far
        self._abandoned = False

    def see_out(self) -> None:
        """Carries until both ways have ended, or one breaks."""
        back = threading.Thread(target=self._guarded, args=(self._back,), daemon=True)
        back.start()
        self._guarded(self._forth)
        back.join()
        self._near.close()
        self._far.close()

    def _guarded(self, carry: Callable[[], None]) -> None:
        try:
            carry()
        # EOFError and SSHException: paramiko's, of a connection that is gone; ValueError: of a socket that was closed.
        except (OSError, EOFError, ValueError, paramiko.SSHException):
            self.abandon()

    def _forth(self) -> None:
        while data := self._near.recv(_CHUNK_BYTES):
            # A memoryview, since paramiko would copy the rest of the bytes for each packet.
            self._far.sendall(memoryview(data))  # type: ignore[arg-type]
        self._far.shutdown_write()

    def _back(self) -> None:
        while data := self._far.recv(_CHUNK_BYTES):
            self._hand_over(memoryview(data))
        if not self._far.eof_received:
            raise EOFError("the connection went before all was there")
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_WR)

    def _hand_over(self, data: memoryview) -> None:
        """Sends to whoever is connected here, who may read slowly, or never again: then until this is abandoned."""
        writable = select.poll()
        writable.register(self._near, select.POLLOUT)
        while data:
            if writable.poll(_LOOK_MS):
                data = data[self._near.send(data, socket.MSG_DONTWAIT) :]
            elif self._abandoned:
                raise EOFError("abandoned")

    def abandon(self) -> None:
        """Ends both at once; whoever is connected here sees a reset."""
        self._abandoned = True
        _reset(self._near)
        self._far.close()


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Wakes the thread that reads from it, but says nothing to the other end yet.
        connection.shutdown(socket.SHUT_RD)
    connection.close()
