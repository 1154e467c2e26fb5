"""The firewall in front of one machine: who connects is let through to its SSH server, or is not."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Front:
    """A port on loopback that leads to another one for whoever may come there.

    Args:
        target: the port of the machine's SSH server.
        lets_in: whether an address may come.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int, lets_in: Callable[[str], bool]) -> None:
        self._target, self._lets_in = target, lets_in
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def look_again(self) -> None:
        """Ends the connections of those who may not come any more, as where a client has another address now."""
        with self._lock:
            barred = [
                each for each, came_from in self._open.items() if not self._lets_in(came_from)
            ]
        for each in barred:
            _end(each)

    def close(self) -> None:
        """Ends all of it."""
        _end(self._listener)
        self._listener.close()
        with self._lock:
            for each in self._open:
                _end(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, (came_from, _) = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, came_from), daemon=True).start()

    def _serve(self, client: socket.socket, came_from: str) -> None:
        with client, contextlib.suppress(OSError):
            if not self._lets_in(came_from):
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                with self._lock:
                    self._open[client] = came_from
                try:
                    back = threading.Thread(target=_carry, args=(server, client), daemon=True)
                    back.start()
                    _carry(client, server)
                    back.join()
                finally:
                    with self._lock:
                        del self._open[client]


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
