"""Content: bytes, parts of them or a file that is to be brought to a machine, known there by its digest."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from dayfly.errors import RunFailed
from dayfly.runtime.agent.room import room
from dayfly.runtime.parts import Parts

# Is read at once, at most.
READ_BYTES = 1 << 20
_SAMPLE_BYTES = 64 << 10


class Content:
    """What is to be brought.

    Lifecycle: constructing does nothing, entering opens the file, leaving closes it.

    Attributes:
        size: in bytes.
    """

    def __init__(self, source: bytes | Parts | Path, digest: str = "") -> None:
        """Its SHA-256 may be known already."""
        self._source = source
        self._descriptor = -1
        self.size = 0
        self._known = self._digest = digest
        self._digesting, self._closed = threading.Lock(), False

    def __enter__(self) -> Content:
        if isinstance(self._source, Path):
            self._descriptor = os.open(self._source, os.O_RDONLY)
            self.size = os.fstat(self._descriptor).st_size
        else:
            self.size = len(self._source)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        with self._digesting:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Give exactly so many bytes.

        Raises:
            RunFailed: the file has become shorter.
        """
        if isinstance(self._source, Parts):
            return self._source.read(offset, size)
        if not isinstance(self._source, Path):
            return memoryview(self._source)[offset : offset + size]
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise RunFailed(f"{self._source} has become shorter while it was sent; call again")
        return data

    def reader(self) -> Callable[[int, int], bytes | memoryview]:
        """Give what reads as `read` does, for one thread: what it gives holds until it is called again."""
        if not isinstance(self._source, Path) or not hasattr(os, "preadv"):
            return self.read
        place = room(READ_BYTES)

        def read(offset: int, size: int) -> bytes | memoryview:
            if os.preadv(self._descriptor, [place[:size]], offset) != size:
                return self.read(offset, size)
            return place[:size]

        return read

    @property
    def digested(self) -> bool:
        """Whether `digest` costs nothing."""
        return bool(self._digest)

    def digest(self) -> str:
        """Give its SHA-256; takes 0.7 s for a gigabyte, once."""
        with self._digesting:
            if not self._digest:
                digest, read = hashlib.sha256(), self.reader()
                for offset in range(0, self.size, READ_BYTES):
                    if self._closed:
                        raise RunFailed("the content is not wanted any more")
                    digest.update(read(offset, min(READ_BYTES, self.size - offset)))
                self._digest = digest.hexdigest()
            return self._digest

    @property
    def name(self) -> str:
        """The same one for each try, or what is there of it would not be found again."""
        return self._known or self.likeness()

    def likeness(self) -> str:
        """Give a name that two contents share only if they are much alike, at no cost: to find what came of it before."""
        digest = hashlib.sha256(b"%d " % self.size)
        for offset in (0, self.size // 2, self.size - _SAMPLE_BYTES):
            start = max(0, offset)
            digest.update(self.read(start, min(_SAMPLE_BYTES, self.size - start)))
        return digest.hexdigest()
