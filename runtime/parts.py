"""Parts: bytes that are sent from where they lie, so that what is large is not in memory a second time for that."""

from __future__ import annotations

import bisect
import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import PickleBuffer

from dayfly.runtime.agent import files, frames

# More of what may be changed meanwhile is set aside on the disk and not in memory.
_ASIDE_BYTES = 64 << 20
_READ_BYTES = 1 << 20

Flat = bytes | bytearray | memoryview | PickleBuffer


def flat(data: Flat) -> memoryview:
    """Its bytes in a row, without a copy, whatever dimensions it has: a pickler hands over large buffers as they are."""
    return data.raw() if isinstance(data, PickleBuffer) else memoryview(data).cast("B")


class Parts:
    """What a pickler has written, kept by reference: it hands over large buffers and bytes as they are.

    It is no snapshot. A buffer that belongs to somebody who may change it, an array for one, must not be changed before all
    of it is sent; where nobody can promise that, `settled` makes a snapshot of it.
    """

    def __init__(self, parts: Iterable[bytes] = ()) -> None:
        self._parts: list[memoryview | _Aside] = []
        self._ends: list[int] = []
        self._changeable: set[int] = set()
        for part in parts:
            self.write(part)

    @classmethod
    def of(cls, content: bytes | Parts) -> Parts:
        """What may be bytes by itself."""
        return cls([content]) if isinstance(content, bytes) else content

    def write(self, data: Flat, /) -> int:
        """Take the next bytes, and tell how many they are."""
        view = flat(data)
        if type(data) is not bytes:
            self._changeable.add(len(self._parts))
        self._add(view)
        return view.nbytes

    def _add(self, part: memoryview | _Aside) -> None:
        if part.nbytes:
            self._parts.append(part)
            self._ends.append(len(self) + part.nbytes)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __bytes__(self) -> bytes:
        if len(self._parts) == 1:
            return bytes(self._parts[0][:])
        return b"".join(self._pieces())

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Give exactly so many bytes; without a copy where they lie in one part."""
        found: list[bytes | memoryview] = []
        number = bisect.bisect_right(self._ends, offset)
        while size:
            part = self._parts[number]
            start = offset - (self._ends[number] - part.nbytes)
            found.append(part[start : start + size])
            offset, size, number = offset + len(found[-1]), size - len(found[-1]), number + 1
        return found[0] if len(found) == 1 else b"".join(found)

    def buffers(self) -> list[PickleBuffer]:
        """All of it, in the order of the parts, as another pickle takes it without a copy."""
        return [PickleBuffer(part[:]) for part in self._parts]

    def sha256(self) -> bytes:
        """The digest of all of it; 0.7 s for a gigabyte."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.digest()

    def _pieces(self) -> Iterator[bytes | memoryview]:
        for offset in range(0, len(self), _READ_BYTES):
            yield self.read(offset, min(_READ_BYTES, len(self) - offset))

    def behind(self, *front: bytes) -> Parts:
        """The same with these bytes in front."""
        made = Parts(front)
        made._changeable |= {number + len(made._parts) for number in self._changeable}
        for part in self._parts:
            made._add(part)
        return made

    def sealed(self, key: bytes, run_id: str, seq: int) -> Parts:
        """What `frames.seal` makes of it, without a copy."""
        return self.behind(frames.header_of(key, run_id, seq, len(self), self.sha256()))

    def settled(self, folder: Path) -> Parts:
        """The same as it is now, whoever changes what it refers to: that is copied.

        Args:
            folder: takes a file without a name, where there is too much to have it in memory twice.
        """
        sizes = {number: self._parts[number].nbytes for number in self._changeable}
        in_memory = sum(sizes.values()) <= _ASIDE_BYTES
        made = Parts()
        for number, part in enumerate(self._parts):
            if number not in sizes or isinstance(part, _Aside):
                made._add(part)
            elif in_memory:
                made._add(memoryview(bytes(part)))
            else:
                made._add(_Aside(part, folder))
        return made


class _Aside:
    """Bytes in a file that has no name any more, and ends with this."""

    def __init__(self, content: memoryview, folder: Path) -> None:
        self.nbytes = content.nbytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor, name = tempfile.mkstemp(dir=folder)
        weakref.finalize(self, os.close, self._descriptor)
        Path(name).unlink()
        files.write_at(self._descriptor, 0, content)

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(self.nbytes)
        return os.pread(self._descriptor, stop - start, start)
