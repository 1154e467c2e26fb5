"""The file of the samples."""

from __future__ import annotations

import os

from .files import write_all, write_file
from .samples import SAMPLES_BYTES_MOST, read_samples, sample_line, thin_samples

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class SampleFile:
    """Samples on a disk, appended one by one, and thinned where they become too many."""

    def __init__(self, path: str) -> None:
        self._path = path

    def append(self, lines: bytes) -> None:
        """Write whole lines behind what is there.

        Raises:
            OSError: the disk has no room for them; what it took of them spoils no other line.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            write_all(descriptor, b"\n" + lines if torn else lines)
        finally:
            os.close(descriptor)
        if size + len(lines) > SAMPLES_BYTES_MOST:
            self._thin()

    def _thin(self) -> None:
        left = thin_samples(self.read())
        write_file(self._path, b"".join(map(sample_line, left)))

    def read(self) -> list[dict[str, Any]]:
        """Give what is there."""
        try:
            with open(self._path, "rb") as file:
                return read_samples(file.read())
        except FileNotFoundError:
            return []


class SampleReader:
    """Reads what a job's sampler writes, by number: the file may be thinned at any time."""

    EVERY_S = 1.0

    def __init__(self, path: str, since: int) -> None:
        self._path, self._since = path, since
        self._place = (0, 0)  # inode and offset
        self._looked = 0.0

    def due(self, now: float, last: bool) -> Iterator[tuple[int, bytes]]:
        """As `unread`, but only once in a while."""
        if last or now - self._looked >= self.EVERY_S:
            self._looked = now
            yield from self.unread()

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """Give the lines after the last number as one piece, with the number of the last of them; none where none came."""
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            offset = self._place[1] if inode == self._place[0] else 0
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._place = (inode, offset + len(whole))
        new = [sample for sample in read_samples(whole) if sample["n"] > self._since]
        if new:
            self._since = new[-1]["n"]
            yield self._since, b"".join(map(sample_line, new))
