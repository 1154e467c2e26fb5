"""The result of a warm call while it is written."""

from __future__ import annotations

from .frames import seal
from .known_call import WARM_INLINE_BYTES
from .sealed_writer import SealedWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Spilling:
    """A sealed result that stays in memory while it is small, and becomes a file where it is not.

    Attributes:
        sealed: all of it, once it is committed; empty where it is a file.
    """

    def __init__(self, path: str, key: bytes, run_id: str, seq: int) -> None:
        self._path, self._place = path, (key, run_id, seq)
        self._parts: list[bytes] = []
        self._length = 0
        self._file: SealedWriter | None = None
        self.sealed = b""

    @property
    def spilt(self) -> bool:
        """Whether it is a file."""
        return self._file is not None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._length += size
        if self._file is None and self._length > WARM_INLINE_BYTES:
            # What its machine loses when it goes off, it loses with the whole run.
            self._file = SealedWriter(self._path, *self._place, durable=False)
            for held in self._parts:
                self._file.write(held)
            self._parts.clear()
        if self._file is not None:
            return self._file.write(data)
        self._parts.append(bytes(data))
        return size

    def commit(self) -> None:
        if self._file is not None:
            self._file.commit()
        else:
            self.sealed = seal(*self._place, b"".join(self._parts))

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()
