"""LogTail: the log of a job on this computer as lines, read on from where it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from dayfly.runtime import ranks
from dayfly.runtime.run_log import STREAMS

_PIECE_BYTES = 1 << 20


class LogTail:
    """Both streams of a job's log; a job that is tried again has the log of its latest attempt.

    Where it has several ranks each line begins with its rank.

    Args:
        directory: gives the directory of the run as it is now; None where there is no run.
    """

    def __init__(self, directory: Callable[[], Path | None]) -> None:
        self._directory = directory
        self._read: Path | None = None
        self._offsets: dict[Path, int] = {}
        self._rest: dict[Path, tuple[str, bytes]] = {}

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
            self._offsets, self._rest = {}, {}
        for label, folder in ranks.logs(directory):
            for stream in STREAMS:
                yield from self._lines_of(label, folder / f"{stream}.log")

    def _lines_of(self, label: str, file: Path) -> Iterator[str]:
        offset, rest = self._offsets.get(file, 0), self._rest.get(file, ("", b""))[1]
        while data := self._piece(file, offset):
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            self._offsets[file], self._rest[file] = offset, (label, rest)
            yield from (label + line.decode(errors="replace") for line in lines)

    def rest(self) -> Iterator[str]:
        """What stands behind the last line break, once nothing can come any more."""
        yield from (
            label + text.decode(errors="replace") for label, text in self._rest.values() if text
        )

    def _piece(self, file: Path, offset: int) -> bytes:
        try:
            with file.open("rb") as data:
                data.seek(offset)
                return data.read(_PIECE_BYTES)
        except FileNotFoundError:
            return b""
