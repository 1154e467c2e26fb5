"""A TCP proxy that does one planned harm to each of its first connections, at an exact offset, and none to later ones."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.proxy import reset

KINDS = ("reset", "blackhole", "half-open", "1 byte/s", "flipped byte")
_SLOW_S = (1.0, 3.0)


@dataclass(frozen=True)
class Harm:
    """What happens to one connection.

    Attributes:
        kind: one of KINDS.
        to_client: in which direction the bytes are counted.
        offset: how many bytes pass before it.
        seconds: for how long a slow connection is slow.
        bit: the one that is flipped.
    """

    kind: str
    to_client: bool
    offset: int
    seconds: float = 0.0
    bit: int = 0

    @classmethod
    def draw(cls, chance: random.Random, kind: str, most: int) -> Harm:
        """A harm of this kind after `most` bytes at most, to the client, or a fortieth of that from it."""
        to_client = chance.random() < 0.7
        offset = chance.randrange(1, most if to_client else max(2, most // 40))
        return cls(kind, to_client, offset, chance.uniform(*_SLOW_S), chance.randrange(8))

    def __str__(self) -> str:
        return (
            f"{self.kind} after {self.offset} bytes {'to' if self.to_client else 'from'} the client"
        )


class FaultyProxy:
    """Forwards every connection to `target`, a port on loopback, and harms the first ones as planned.

    Attributes:
        done: the harms that came about.
    """

    def __init__(self, target: int, plan: Sequence[Harm]) -> None:
        self.done: list[Harm] = []
        self._target = target
        self._plan = list(plan)
        self._open: list[socket.socket] = []
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    server = socket.create_connection(("127.0.0.1", self._target))
                    harm = self._plan.pop(0) if self._plan else None
                    self._open += [client, server]
                    _Pair(self, client, server, harm).start()

    @property
    def closing(self) -> threading.Event:
        """Set when the proxy ends."""
        return self._closing

    def close(self) -> None:
        """Ends every connection with a reset."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            reset(each)


class _Pair:
    """One connection through the proxy: its two ends and the harm to it."""

    def __init__(
        self, proxy: FaultyProxy, client: socket.socket, server: socket.socket, harm: Harm | None
    ) -> None:
        self._proxy, self._client, self._server, self._harm = proxy, client, server, harm
        # Once set, nothing more is handed on in either direction.
        self._silent = threading.Event()

    def start(self) -> None:
        for to_client in (True, False):
            threading.Thread(target=self._forward, args=(to_client,), daemon=True).start()

    def _forward(self, to_client: bool) -> None:
        ends = (self._server, self._client) if to_client else (self._client, self._server)
        source, sink = ends
        harm = self._harm if self._harm and self._harm.to_client == to_client else None
        carried = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._silent.is_set():
                    continue
                if harm and carried <= harm.offset < carried + len(data):
                    sink.sendall(data[: harm.offset - carried])
                    self._proxy.done.append(harm)
                    rest = data[harm.offset - carried :]
                    if not self._do(harm, rest, sink):
                        continue
                else:
                    sink.sendall(data)
                carried += len(data)
        if not self._silent.is_set():
            reset(source)
            reset(sink)

    def _do(self, harm: Harm, rest: bytes, sink: socket.socket) -> bool:
        """Does it.

        Returns:
            Whether the connection carries on.
        """
        if harm.kind == "flipped byte":
            sink.sendall(bytes([rest[0] ^ (1 << harm.bit)]) + rest[1:])
            return True
        if harm.kind == "1 byte/s":
            self._trickle(harm.seconds, rest, sink)
            return True
        if harm.kind == "reset":
            raise ConnectionResetError
        self._silent.set()
        if harm.kind == "half-open":
            reset(self._server)
        return False

    def _trickle(self, seconds: float, rest: bytes, sink: socket.socket) -> None:
        until, sent = time.monotonic() + seconds, 0
        while time.monotonic() < until and sent < len(rest) - 1:
            sink.sendall(rest[sent : sent + 1])
            sent += 1
            self._proxy.closing.wait(1.0)
        sink.sendall(rest[sent:])


@contextlib.contextmanager
def faulty_proxy(target: int, plan: Sequence[Harm]) -> Iterator[FaultyProxy]:
    """A proxy for as long as the block lasts."""
    made = FaultyProxy(target, plan)
    try:
        yield made
    finally:
        made.close()
