"""Content that comes over several channels at once."""

from __future__ import annotations

import os
import struct

from .arrival import Arrival
from .blobs import finish_blob, is_whole
from .files import size_of, write_at
from .frames import FRAME_BYTES_MAX
from .packing import unpack
from .refusal import Refusal
from .running_digest import RunningDigest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Transfer:
    """Content on its way to this machine in pieces: written as they come, digested as far as there is no gap.

    What is there is noted beside it, so that another agent can go on where this one ended.
    """

    PROGRESS_BYTES = 1 << 20
    _RANGES = 64

    def __init__(self, part: str, size: int) -> None:
        import threading

        self.part, self.named = part, ""
        self._known = self._asked = self._closed = False
        self._writing = 0
        flags = os.O_RDWR | os.O_CREAT
        self._file = os.open(part, flags, 0o600)
        self._note = os.open(part + ".have", flags, 0o600)
        note = os.pread(self._note, 8 + 16 * self._RANGES, 0)
        self.arrival = Arrival(size, self._noted(note, os.fstat(self._file).st_size))
        self.resumed = self.arrival.gaps() != [(0, size)]
        self._digest = RunningDigest(self._file)
        self._noting = threading.Lock()

    @classmethod
    def there(cls, part: str) -> int:
        """Tell how many bytes are there of what is or was on its way, by its note."""
        try:
            with open(part + ".have", "rb") as file:
                note = file.read(8 + 16 * cls._RANGES)
        except FileNotFoundError:
            return 0
        return sum(end - start for start, end in cls._noted(note, size_of(part)))

    @staticmethod
    def _noted(note: bytes, size: int) -> list[tuple[int, int]]:
        """Give what is there by the note, as (start, end); nothing of what a file of that size cannot hold."""
        words = struct.unpack(f">{len(note) // 8}Q", note[: len(note) // 8 * 8])
        count = min(words[0], (len(words) - 1) // 2) if words else 0
        ranges = [(words[place], words[place + 1]) for place in range(1, 1 + 2 * count, 2)]
        places = [place for ends in ranges for place in ends]
        # What was torn by a crash of the machine is no help.
        return ranges if places == sorted(set(places)) and places[-1:] <= [size] else []

    def name(self, digest: str) -> None:
        """Say what its digest must be."""
        with self.arrival.changed:
            self.named, self._known = digest, True
            self.arrival.changed.notify_all()

    def write(
        self,
        start: int,
        offset: int,
        data: bytes | memoryview,
        whole: int,
        *,
        digest: bool = False,
    ) -> None:
        """Write a part of the piece from `start` to `whole`; what goes wrong is told to whoever waits.

        With `digest` it is digested at once, if it comes next: for a thread that has nothing else to do.
        """
        with self.arrival.changed:
            if self._closed:
                return
            self._writing += 1
        try:
            if not 0 <= start <= offset <= offset + len(data) <= whole <= self.arrival.size:
                raise ValueError(f"a piece from {start} to {whole} of {self.arrival.size} bytes")
            write_at(self._file, offset, data)
            if digest:
                self._digest.add(offset, data)
            self.arrival.note(start, offset + len(data), whole)
            with self._noting:
                ranges = self.arrival.ranges()[: self._RANGES]
                words = [len(ranges), *(place for ends in ranges for place in ends)]
                os.pwrite(self._note, struct.pack(f">{len(words)}Q", *words), 0)
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is made
            self.arrival.fail(error)
        finally:
            self._written()

    def write_packed(self, start: int, codec: str, data: bytes, size: int) -> None:
        """Write a whole piece of so many bytes that has come packed; nothing of one that is torn."""
        try:
            plain = unpack(codec, data, min(size, FRAME_BYTES_MAX))
        except ValueError:
            self.arrival.fail(Refusal("digest", "what arrived is not what was sent"))
        else:
            self.write(start, start, plain, start + size)

    def _written(self) -> None:
        with self.arrival.changed:
            self._writing -= 1
            if self._closed:
                self.arrival.changed.notify_all()

    def digested(self, needless: Callable[[], bool], tell: Callable[[int], None]) -> str:
        """Digest it until all is there and its digest is known; "" as soon as it turns out to be here already."""
        have = told = 0
        # Often enough for whoever has to see to other things meanwhile, also on a slow line.
        every = min(4 * self.PROGRESS_BYTES, max(self.PROGRESS_BYTES, self.arrival.size // 64))
        while have < self.arrival.size or not self._known:
            there = self.arrival.await_more(have, self._newly_named, every)
            if self._newly_named():
                self._asked = True
                if needless():
                    return ""
            have = min(there, max(have, self._digest.done) + every)
            self._digest.catch_up(have)
            if have - told >= every:
                tell(have)
                told = have
        return self._digest.digest().hex()

    def _newly_named(self) -> bool:
        return self._known and not self._asked

    def keep(self, path: str) -> None:
        """Give it the name under which it is looked for."""
        try:
            if not is_whole(path, self.arrival.size):
                finish_blob(self.part, path)
        except FileNotFoundError:
            if not is_whole(path, self.arrival.size):
                raise
            # Another session has brought the same.
        self.discard()

    def discard(self) -> None:
        """Remove what is there of it."""
        for path in (self.part, self.part + ".have"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def close(self) -> None:
        with self.arrival.changed:
            # Whoever is at a write must not find another file under the number.
            self._closed = True
            while self._writing:
                self.arrival.changed.wait()
        os.close(self._file)
        os.close(self._note)
