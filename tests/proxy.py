"""A small TCP proxy on loopback that can cut its connections, slow them down, swallow what they carry, and lead elsewhere."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator


class Proxy:
    """Forwards every connection to `target`, a port on loopback.

    Attributes:
        target: where new connections lead.
        bytes_per_s: how fast a connection carries what its client sends; None as fast as it goes.
        cut_after: once a connection has carried this many bytes to its client it is reset; None never.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.bytes_per_s: int | None = None
        self.cut_after: int | None = None
        self._deaf: set[socket.socket] = set()
        self.connections = 0
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                if self.bytes_per_s:
                    # Little is on its way on a slow link, so that its sender has to wait.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
                self._open += [client, server]
                self._run(self._forward, client, server, False)
                self._run(self._forward, server, client, True)

    def _forward(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 12 if self.bytes_per_s else 1 << 16):
                if source in self._deaf:
                    continue
                carried += len(data)
                if self.bytes_per_s and not counted:
                    time.sleep(len(data) / self.bytes_per_s)
                if counted and self.cut_after is not None and carried > self.cut_after:
                    sink.sendall(data[: len(data) // 2])
                    self.cuts += 1
                    break
                sink.sendall(data)
        if counted and source in self._deaf:
            return  # its client does not hear of its end either
        reset(source)
        reset(sink)

    def deafen(self) -> None:
        """Keep every connection that is open now, and hand on nothing more of what it carries, nor that the target ends it."""
        self._deaf |= set(self._open)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for each in self._open:
            reset(each)
        self._open.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of a farewell."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
