"""Where progress and a function's output meet: one terminal or pipe, shared by every job of this process."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, ClassVar, Literal

from dayfly.infra.units import human_seconds
from dayfly.runtime.wording import Rows

Stream = Literal["stdout", "stderr"]
# What is to be said in the live line now: (job, step, since when on the monotonic clock, detail).
Live = Callable[[], Sequence[tuple[str, str, float, str]]]

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
# The live line waits for a pause in the output, so that it does not flicker between two lines.
_PAUSE_S = 0.3
_ERASE = "\r\x1b[K"


class Pipe:
    """Plain lines: a log file, a pipe, a notebook."""

    # Whether `live` is heeded.
    is_live: ClassVar[bool] = False

    def __init__(self) -> None:
        # One for all surfaces and jobs: lines of two jobs must not mix.
        self.lock = threading.RLock()
        self._partial: Stream | None = None
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {}
        self._gone: dict[Stream, IO[str]] = {}

    def line(self, text: str, style: str = "") -> None:
        """One line, or several, on stderr."""
        with self.lock:
            self._end_partial_line()
            self._write("stderr", (text + "\n").encode(errors="replace"))

    def table(self, title: str, rows: Rows) -> None:
        """Labels and texts under a title."""
        width = max(len(label) for label, _ in rows)
        self.line("\n".join([title, *(f"  {label:<{width}}  {text}" for label, text in rows)]))

    def raw(self, stream: Stream, data: bytes) -> None:
        """The function's own output, as it is."""
        with self.lock:
            self._write(stream, data)
            if data:
                self._partial = None if data.endswith(b"\n") else stream

    def live(self, live: Live) -> None:
        """The live line is to be drawn from this; a pipe has none."""

    def _end_partial_line(self) -> None:
        if self._partial is not None and self._meets_stderr(self._partial):
            self._write("stderr", b"\n")
        self._partial = None

    def _meets_stderr(self, stream: Stream) -> bool:
        return stream == "stderr"

    def _write(self, stream: Stream, data: bytes) -> None:
        """Writes at once. A reader that went away, or a disk that is full, must not cost the run its result."""
        target: IO[str] | None = getattr(sys, stream)
        if target is None or self._gone.get(stream) is target:
            return
        try:
            self._pass_on(target, stream, data)
        except BlockingIOError:
            # A reader that is slow on a descriptor that does not wait: it misses this part, not the rest.
            return
        except ValueError:
            # The stream was closed under us: a test's capture, an interpreter at its end.
            return
        except OSError:
            self._gone[stream] = target
            self._discard(target)

    def _pass_on(self, target: IO[str], stream: Stream, data: bytes) -> None:
        binary = getattr(target, "buffer", None)
        if binary is not None:
            target.flush()
            binary.write(data)
            binary.flush()
            return
        decoder = self._decoders.setdefault(
            stream, codecs.getincrementaldecoder("utf-8")("replace")
        )
        target.write(decoder.decode(data))
        target.flush()

    def _discard(self, target: IO[str]) -> None:
        """The interpreter flushes at its end; without this it would fail there."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, target.fileno())
            os.close(null)


class Terminal(Pipe):
    """Rich text, and a live line below the output that says what goes on and for how long."""

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self._rendered = io.StringIO()
        self._console = Console(file=self._rendered, force_terminal=True, highlight=False)
        self._live: Live = tuple
        self._drawn = False
        self._quiet_since = 0.0
        self._frame = 0
        self._painter: threading.Thread | None = None

    def line(self, text: str, style: str = "") -> None:
        with self.lock:
            self._erase()
            self._end_partial_line()
            self._print(text, style=style or None, markup=False, soft_wrap=True)

    def table(self, title: str, rows: Rows) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in rows:
            # As a Text: brackets in it are no markup.
            table.add_row(label, Text(text))
        with self.lock:
            self._erase()
            self._end_partial_line()
            self._print(table)

    def _print(self, renderable: Any, **how: Any) -> None:
        """Rendered by Rich and written by us: Rich ends the program where the terminal is gone."""
        self._console.print(renderable, **how)
        text = self._rendered.getvalue()
        self._rendered.seek(0)
        self._rendered.truncate()
        self._write("stderr", text.encode(errors="replace"))

    def raw(self, stream: Stream, data: bytes) -> None:
        with self.lock:
            self._erase()
            self._quiet_since = time.monotonic()
            super().raw(stream, data)

    def live(self, live: Live) -> None:
        with self.lock:
            self._live = live
            self._erase()
            if live() and self._painter is None:
                self._painter = threading.Thread(
                    target=self._paint, name="dayfly-live-line", daemon=True
                )
                self._painter.start()

    def _paint(self) -> None:
        while True:
            with self.lock:
                steps = self._live()
                if not steps:
                    self._painter = None
                    return
                if self._partial is None and time.monotonic() - self._quiet_since >= _PAUSE_S:
                    self._draw(steps)
            time.sleep(_FRAME_S)

    def _draw(self, steps: Sequence[tuple[str, str, float, str]]) -> None:
        self._frame += 1
        now = time.monotonic()
        parts = [
            " ".join(filter(None, (job, name, human_seconds(now - since), detail)))
            for job, name, since, detail in steps
        ]
        text = f"{_FRAMES[self._frame % len(_FRAMES)]} {' | '.join(parts)}"
        self._put(_ERASE + text[: shutil.get_terminal_size().columns - 1])
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._put(_ERASE)
            self._drawn = False

    def _put(self, text: str) -> None:
        # Around the buffered writer, whose lock a daemon thread must not hold when the interpreter ends.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(sys.stderr.fileno(), text.encode(errors="replace"))

    def _meets_stderr(self, stream: Stream) -> bool:
        return stream == "stderr" or _is_terminal(getattr(sys, stream))


class Silence(Pipe):
    """Shows nothing."""

    def line(self, text: str, style: str = "") -> None:
        return

    def raw(self, stream: Stream, data: bytes) -> None:
        return


def _is_terminal(target: IO[str] | None) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return target is not None and target.isatty()
    return False  # Closed.


_shared: dict[type[Pipe], Pipe] = {}
_sharing = threading.Lock()


def standard() -> Pipe:
    """The surface of this process: a terminal where stderr is one that can draw, else a pipe."""
    able = _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
    kind = Terminal if able else Pipe
    with _sharing:
        if kind not in _shared:
            _shared[kind] = kind()
        return _shared[kind]
