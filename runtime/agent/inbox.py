"""What comes over a socket, parcel by parcel."""

from __future__ import annotations

import struct

from .frames import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PREFIX = struct.Struct(">I")


def parcel(payload: bytes) -> bytes:
    """Put the length in front, for a stream."""
    return PREFIX.pack(len(payload)) + payload


class Inbox:
    """Takes whole parcels out of what arrives."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give each taken apart."""
        return map(decode, self.payloads(data))

    def payloads(self, data: bytes) -> Iterator[bytes]:
        """Give each as it is."""
        # Mostly it is one, and whole: that need not be collected first.
        if not self._held and len(data) > PREFIX.size:
            (length,) = PREFIX.unpack_from(data)
            if len(data) == PREFIX.size + length:
                yield data[PREFIX.size :]
                return
        self._held += data
        while len(self._held) >= PREFIX.size:
            (length,) = PREFIX.unpack_from(self._held)
            end = PREFIX.size + length
            if len(self._held) < end:
                return
            payload = bytes(memoryview(self._held)[PREFIX.size : end])
            del self._held[:end]
            yield payload
