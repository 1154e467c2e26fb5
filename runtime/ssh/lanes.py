"""Lanes: further channels of a link for large content, whose bytes need no frames; each order on them is a frame."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dayfly.errors import Forged
from dayfly.runtime.agent import frames
from dayfly.runtime.agent import lanes as agent_lanes
from dayfly.runtime.ssh.connection import Connection, Stream

if TYPE_CHECKING:
    from dayfly.runtime.ssh.link import Link

# What a machine's server and ours let be on its way on one channel.
UPWARD_WINDOW_BYTES, DOWNWARD_WINDOW_BYTES = 2 << 20, 16 << 20
# No single connection of ours is faster.
_BYTES_PER_S = 500e6
_MOST = 16
# A server grants ten sessions unless it is told otherwise; one is the link's own, one is left to its user.
_MOST_COMMANDS = 8
_OPEN_S = 20.0
_PACKET_BYTES = 1 << 20


def count_for(round_trip_s: float, window_bytes: int) -> int:
    """How many channels keep the line full, when each may have `window_bytes` on its way."""
    return max(1, math.ceil(min(_MOST, round_trip_s * _BYTES_PER_S / window_bytes)))


class Lane:
    """One of them; for one transfer at a time."""

    def __init__(self, stream: Stream, key: bytes, run_id: str, number: int) -> None:
        self._stream, self._key, self._run_id = stream, key, run_id
        self._orders = 0
        self._rest = deque[memoryview]()
        stream.send(number.to_bytes(4, "big"))

    def put(self, of: int, offset: int, data: bytes | memoryview) -> None:
        """Send a piece of what the agent receives under the number `of`.

        Raises:
            Disconnected: the lane went, perhaps after a part of it.
        """
        self._order({"of": of, "offset": offset, "bytes": len(data)})
        self._stream.send(data)

    def put_packed(self, of: int, offset: int, codec: str, data: bytes, size: int) -> None:
        """Send a piece of so many bytes that was packed.

        Raises:
            Disconnected: the lane went, perhaps after a part of it.
        """
        order = {"of": of, "offset": offset, "bytes": len(data), "codec": codec, "plain": size}
        self._order(order)
        self._stream.send(data)

    def want(self, what: str, offset: int, size: int, codec: str = "") -> None:
        """Have the agent send a piece of something that it has, behind what was wanted before, packed or as it is."""
        packed = {"codec": codec} if codec else {}
        self._order({"what": what, "offset": offset, "bytes": size, **packed})

    def receive(self, size: int) -> list[memoryview]:
        """Give the next bytes of what was wanted, at most `size`, in the parts in which they have come.

        Raises:
            Disconnected: the lane ended.
        """
        if not self._rest:
            self._rest.extend(map(memoryview, self._stream.receive_parts(_PACKET_BYTES)))
        parts = list[memoryview]()
        while self._rest and size:
            part = self._rest.popleft()
            if len(part) > size:
                self._rest.appendleft(part[size:])
                part = part[:size]
            parts.append(part)
            size -= len(part)
        return parts

    def receive_packed(self, size: int, codec: str) -> tuple[dict[str, Any], bytes]:
        """Give a piece of so many bytes that was wanted packed, as it has come, and what was told of it.

        Raises:
            Disconnected: the lane ended.
            Forged: it would be larger than the piece.
        """
        packed, took_us = agent_lanes.PACKED_HEAD.unpack(
            self._exactly(agent_lanes.PACKED_HEAD.size)
        )
        if packed >= size:
            raise Forged(f"the machine packs a piece of {size} bytes into {packed}")
        told = {"took_us": took_us, **({"codec": codec, "plain": size} if packed else {})}
        return told, self._exactly(packed or size)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            for part in self.receive(size - len(data)):
                data += part
        return bytes(data)

    def lend(self, generation: int) -> None:
        """Have the agent hand it on to what makes the calls of a warm run, for the line of that generation."""
        self._order({"shortcut": generation})

    def _order(self, order: dict[str, Any]) -> None:
        sealed = frames.seal(self._key, self._run_id, self._orders, frames.encode(order))
        self._orders += 1
        self._stream.send(sealed)

    def close(self) -> None:
        """Close its channel."""
        self._stream.close()


class Lanes:
    """The lanes of one link, opened at the first use and kept for the next.

    Each leads to a socket of the agent: through the server's own forwarding, or, where that is refused, through a
    command on the machine. A server may refuse both; then there are none.
    """

    def __init__(
        self, link: Link, connection: Connection, run_id: str, key: Callable[[int], bytes]
    ) -> None:
        self._link, self._connection = link, connection
        self._run_id, self._key = run_id, key
        self._lanes: list[Lane] = []
        self._numbers = itertools.count(1)
        self._most, self._forwarded = _MOST, True
        self._using = threading.Lock()

    @contextlib.contextmanager
    def taken(self, window_bytes: int) -> Iterator[list[Lane]]:
        """Have as many as keep the line full, or none, for this thread alone; whoever breaks off, breaks them.

        Raises:
            Disconnected: the link broke.
        """
        with self._using:
            if (self._most and not self._lanes) or len(self._lanes) < self._wanted(window_bytes):
                self._open(window_bytes)
            try:
                yield self._lanes[: self._wanted(window_bytes)]
            except BaseException:
                while self._lanes:
                    self._lanes.pop().close()
                raise

    def _wanted(self, window_bytes: int) -> int:
        return min(count_for(self._link.round_trip_s, window_bytes), self._most)

    def _open(self, window_bytes: int) -> None:
        place = self._link.ask({"op": "lanes", "most": _MOST})
        count = self._wanted(window_bytes) - len(self._lanes)
        streams = self._streams(place, count) if place["path"] else []
        if len(streams) < count:
            self._most = len(self._lanes) + len(streams)
        for stream in streams:
            self._lanes.append(self._lane(stream))

    def _lane(self, stream: Stream) -> Lane:
        number = next(self._numbers)
        return Lane(stream, self._key(number), self._run_id, number)

    def shortcut(self, generation: int) -> Stream | None:
        """Open a stream that leads to what makes the calls of a warm run; None where the server forwards nothing.

        Raises:
            AgentRefused: the run takes no more calls.
            Disconnected: the link broke.
        """
        if not self._forwarded:
            return None
        place = self._link.ask({"op": "lanes", "most": 1})
        streams = self._connection.streams(place["path"], 1, _OPEN_S) if place["path"] else []
        for stream in streams:
            self._lane(stream).lend(generation)
        return streams[0] if streams else None

    def _streams(self, place: dict[str, Any], count: int) -> list[Stream]:
        if self._forwarded:
            streams = self._connection.streams(place["path"], count, _OPEN_S)
            if streams:
                return streams
            self._forwarded = False
        count = min(count, _MOST_COMMANDS - len(self._lanes))
        command = f"exec {shlex.join(place['relay'])}"
        return self._connection.commands(command, count, _OPEN_S) if count > 0 else []
