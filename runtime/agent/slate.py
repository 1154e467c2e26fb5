"""What a process tells another one that need not hear it at once."""

from __future__ import annotations

import struct
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Slate:
    """Payloads in memory that two processes share, from the one that writes to the one that looks at times.

    Telling by a socket wakes the other one, which then takes the time of a core that has better things to do. What was
    written down whole is there for the other one also where its writer has died since.

    Each payload comes with how many the writer had sent by another way before, so that all of it can be read in its order.
    """

    # Who writes may rely on being looked at for so long behind the last thing that was heard, however it came.
    LOOKED_AT_S, LOOK_EVERY_S = 1.0, 0.01
    # Larger ones have to go another way.
    MOST_BYTES = 16 << 10
    _ROOM_BYTES = 256 << 10
    _COUNTS_BYTES = 16
    _HEAD = struct.Struct("=IIQ")  # length, check, how many were sent otherwise

    def __init__(self) -> None:
        import mmap

        self._memory = memoryview(mmap.mmap(-1, self._COUNTS_BYTES + self._ROOM_BYTES))
        # Bytes that were ever written, and ever read; each is written by one process, at once.
        self._counts = self._memory[: self._COUNTS_BYTES].cast("Q")
        self._room = self._memory[self._COUNTS_BYTES :]

    def put(self, sent: int, payload: bytes) -> bool:
        """Write one down; tell whether there was room for it."""
        written, read = self._counts
        size = self._HEAD.size + len(payload)
        if len(payload) > self.MOST_BYTES or written + size - read > self._ROOM_BYTES:
            return False
        head = self._HEAD.pack(len(payload), self._check(written, sent, payload), sent)
        self._write(written, head + payload)
        self._counts[0] = written + size
        return True

    def take(self, heard: int) -> Iterator[bytes]:
        """Give what has been written, as far as no more than `heard` had been sent otherwise before."""
        while True:
            written, read = self._counts
            if written == read:
                return
            length, check, sent = self._HEAD.unpack(self._read(read, self._HEAD.size))
            if sent > heard or length > self.MOST_BYTES:
                return
            payload = self._read(read + self._HEAD.size, length)
            if self._check(read, sent, payload) != check:
                return  # Its bytes may be seen a moment later than their count, by a processor of another kind.
            self._counts[1] = read + self._HEAD.size + length
            yield payload

    @staticmethod
    def _check(place: int, sent: int, payload: bytes) -> int:
        return crc32(payload, (place ^ (sent << 20)) & 0xFFFFFFFF)

    def _write(self, place: int, data: bytes) -> None:
        start = place % self._ROOM_BYTES
        until_end = self._ROOM_BYTES - start
        self._room[start : start + len(data)] = data[:until_end]
        if len(data) > until_end:
            self._room[: len(data) - until_end] = data[until_end:]

    def _read(self, place: int, size: int) -> bytes:
        start = place % self._ROOM_BYTES
        data = bytes(self._room[start : start + size])
        return data + bytes(self._room[: size - len(data)])
