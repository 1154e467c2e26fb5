"""LogTail: the log of a job on this computer as lines, read on from where it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dayfly.runtime.run_log import STREAMS

_PIECE_BYTES = 1 << 20


class LogTail:
    """Both streams of a job's log; a job that is tried again has the log of its latest attempt.

    Args:
        directory: gives the directory of the run as it is now; None where there is no run.
    """

    def __init__(self, directory: Callable[[], Path | None]) -> None:
        self._directory = directory
        self._read: Path | None = None
        self._offsets = dict.fromkeys(STREAMS, 0)
        self._rest = dict.fromkeys(STREAMS, b"")

    def lines(self) -> Iterator[str]:
        """The whole lines that have come since the last time.

        A carriage return stays in its line, as a progress bar left it.
        """
        directory = self._directory()
        if directory is None:
            return
        if self._read != directory:
            # Another attempt has begun: its log begins anew.
            yield from self.rest()
            self._read = directory
            self._offsets, self._rest = dict.fromkeys(STREAMS, 0), dict.fromkeys(STREAMS, b"")
        for stream in STREAMS:
            while data := self._piece(directory / f"{stream}.log", self._offsets[stream]):
                self._offsets[stream] += len(data)
                *lines, self._rest[stream] = (self._rest[stream] + data).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)

    def rest(self) -> Iterator[str]:
        """What stands behind the last line break, once nothing can come any more."""
        yield from (text.decode(errors="replace") for text in self._rest.values() if text)

    def _piece(self, file: Path, offset: int) -> bytes:
        try:
            with file.open("rb") as data:
                data.seek(offset)
                return data.read(_PIECE_BYTES)
        except FileNotFoundError:
            return b""
