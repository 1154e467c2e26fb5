"""A small TCP proxy on loopback that can cut its connections, slow them down, lengthen their way, swallow what they carry, and lead elsewhere.

`python -m tests.proxy PORT SECONDS` is one with that round trip before PORT, in a process of its own; it says its port, and ends with its stdin.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

# More than any connection has on its way on the lines that are modelled.
_ON_ITS_WAY_BYTES = 64 << 20


class Proxy:
    """Forwards every connection to `target`, a port on loopback, or whatever `connect` makes of it.

    Attributes:
        target: where new connections lead.
        bytes_per_s: how fast a connection carries what its client sends; None as fast as it goes.
        cut_after: once a connection has carried this many bytes to its client it is reset; None never.
        cut_after_sent: the same of what its client has sent.
        round_trip_s: how long a byte and the answer to it take on their way together; of new connections.
        carried_up: so many bytes have come from clients; `carried_down` to them.
        began: when the first byte came from a client; 0 before.
        ended: when the last byte was handed to a client.
    """

    def __init__(self, target: int, connect: Callable[[int], socket.socket] | None = None) -> None:
        self.target = target
        self._connect = connect or (lambda port: socket.create_connection(("127.0.0.1", port)))
        self.bytes_per_s: int | None = None
        self.cut_after: int | None = None
        self.cut_after_sent: int | None = None
        self.round_trip_s = 0.0
        self.began = self.ended = 0.0
        self._deaf: set[socket.socket] = set()
        self._lost: set[socket.socket] = set()
        self.connections = 0
        self.cuts = 0
        self.carried_up = self.carried_down = 0
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
                    server = self._connect(self.target)
                except OSError:
                    client.close()
                    continue
                if self.bytes_per_s:
                    # Little is on its way on a slow link, so that its sender has to wait.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
                self._open += [client, server]
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._run(self._forward, client, server, False)
                self._run(self._forward, server, client, True)

    def _forward(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        carried = 0
        way = Way(sink, self.round_trip_s / 2)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 12 if self.bytes_per_s else 1 << 18):
                if self.round_trip_s and hasattr(socket, "TCP_QUICKACK"):
                    # An acknowledgement that is held back here for 40 ms would be taken for a part of the line.
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                if source in self._deaf:
                    continue
                self.began = self.began or time.monotonic()
                carried += len(data)
                self.carried_down += len(data) if counted else 0
                self.carried_up += 0 if counted else len(data)
                if self.bytes_per_s and not counted:
                    time.sleep(len(data) / self.bytes_per_s)
                most = self.cut_after if counted else self.cut_after_sent
                if most is not None and carried > most:
                    way.send(data[: len(data) // 2])
                    self.cuts += 1
                    break
                way.send(data)
                if counted:
                    self.ended = time.monotonic() + way.delay_s
        if source in self._lost or (counted and source in self._deaf):
            return  # its other end does not hear of its end either
        way.close()
        reset(source)
        reset(sink)

    def deafen(self) -> None:
        """Keep every connection that is open now, and hand on nothing more of what it carries, nor that the target ends it."""
        self._deaf |= set(self._open)

    def lose(self) -> None:
        """As `deafen`, and the target does not hear either that its client has gone: as of one that has another address now."""
        self.deafen()
        self._lost |= self._deaf

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


class Way:
    """One direction of a connection: what is sent arrives after `delay_s`."""

    def __init__(self, sink: socket.socket, delay_s: float) -> None:
        self.delay_s = delay_s
        self._sink, self._bytes = sink, 0
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._changed, self._over = threading.Condition(), False
        self._thread = threading.Thread(target=self._hand_over, daemon=True)
        if delay_s:
            self._thread.start()

    def send(self, data: bytes) -> None:
        """Hand it over when its time has come.

        Raises:
            OSError: nobody is there to take it.
        """
        if not self.delay_s:
            self._sink.sendall(data)
            return
        with self._changed:
            while self._bytes > _ON_ITS_WAY_BYTES and not self._over:
                self._changed.wait()
            if self._over:
                raise BrokenPipeError
            self._bytes += len(data)
            self._waiting.append((time.monotonic() + self.delay_s, data))
            self._changed.notify_all()

    def _hand_over(self) -> None:
        try:
            while True:
                with self._changed:
                    while not (self._waiting or self._over):
                        self._changed.wait()
                    if not self._waiting:
                        return
                    due, data = self._waiting.popleft()
                    self._bytes -= len(data)
                    self._changed.notify_all()
                time.sleep(max(0.0, due - time.monotonic()))
                self._sink.sendall(data)
        except OSError:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until all has arrived."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self.delay_s:
            self._thread.join()


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of a farewell."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def proxy(target: int, connect: Callable[[int], socket.socket] | None = None) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    made = Proxy(target, connect)
    try:
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    with proxy(int(sys.argv[1])) as started:
        started.round_trip_s = float(sys.argv[2])
        print(started.port, flush=True)
        sys.stdin.read()
