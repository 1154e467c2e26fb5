"""RunLog: what a function has printed, on its way from the machine to the screen and to the run's directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from dayfly.runtime.redact import StreamMask
from dayfly.runtime.surface import Stream

STREAMS: tuple[Stream, ...] = ("stdout", "stderr")
_TAIL_BYTES = 2000


class Shown(Protocol):
    """Where a log is shown."""

    def output(self, stream: Stream, data: bytes) -> None:
        """The function's own output."""

    def warning(self, text: str) -> None:
        """Something that must be read."""


class RunLog:
    """The log of one run on this computer, in one file a stream; secrets of the Spec are masked at their length.

    Args:
        directory: of the run.
        display: where it is shown.
        grown: told when more of it is in the files.

    Lifecycle: constructing does nothing, entering opens the files at their end, leaving shows what was held back.
    """

    def __init__(
        self, directory: Path, display: Shown, grown: Callable[[], None] = lambda: None
    ) -> None:
        self._directory = directory
        self._display = display
        self._grown = grown
        self._files: dict[Stream, BinaryIO] = {}
        self._masks = {name: StreamMask() for name in STREAMS}
        self._cut = False

    def __enter__(self) -> RunLog:
        self._files = {name: (self._directory / f"{name}.log").open("ab") for name in STREAMS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, file in self._files.items():
            if kind is None:
                self._pass_on(name, self._masks[name].flush())
            # What the disk has no room for shows when the file is closed, too.
            with contextlib.suppress(OSError):
                file.close()

    def size(self, stream: Stream) -> int:
        """Bytes that are here already: where the machine's log has to go on."""
        return self._files[stream].tell()

    def take(self, stream: Stream, _offset: int, data: bytes) -> None:
        """The next bytes of a stream."""
        self._pass_on(stream, self._masks[stream].feed(data))

    def _pass_on(self, stream: Stream, data: bytes) -> None:
        if not self._cut:
            self._keep(self._files[stream], data)
        self._display.output(stream, data)

    def _keep(self, file: BinaryIO, data: bytes) -> None:
        try:
            file.write(data)
            file.flush()
            self._grown()
        except OSError as error:
            self._cut = True
            self._display.warning(f"no room for the log of this run, it is cut here: {error}")


def tail(file: Path) -> str:
    """The last lines of a log, for the message of an error."""
    with contextlib.suppress(OSError), file.open("rb") as data:
        data.seek(max(0, os.fstat(data.fileno()).st_size - _TAIL_BYTES))
        text = data.read().decode(errors="replace").strip()
        if text:
            return f"; its last words on stderr:\n{text}"
    return ""
