"""Display: what people see of one job: plan, steps, the function's own output, notes and the receipt."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Self

from dayfly.infra.plan import Plan
from dayfly.infra.units import human_seconds
from dayfly.runtime import surface, wording
from dayfly.runtime.redact import redact
from dayfly.runtime.surface import Pipe, Silence, Stream
from dayfly.runtime.tally import Tally
from dayfly.stacks.receipt import Receipt

_STREAMS: tuple[Stream, ...] = ("stdout", "stderr")
# Every display with a step under way, so that lines are labelled as soon as there are two of them.
_live: weakref.WeakSet[Display] = weakref.WeakSet()
_live_lock = threading.Lock()


class Display:
    """The view of one job. Steps, plan, notes and receipt go to stderr; the function's output to stdout and stderr.

    A job counts as live from its first step until `done()` without a detail, or its receipt. While more than one is
    live, each line begins with its job's short id, and the function's output is shown by whole lines.

    Args:
        surface: where it is shown.
        quiet: no steps, plan, notes and receipt; warnings and the function's output are shown all the same.
        output_to: the one stream that gets all of the function's output; None keeps stdout and stderr apart.
    """

    def __init__(
        self, surface: Pipe, *, quiet: bool = False, output_to: Stream | None = None
    ) -> None:
        self.run_id = ""
        self._surface = surface
        self._quiet = quiet
        self._output_to = output_to
        self._in_company = False
        self._step: tuple[str, float, str] | None = None
        self._tallies: list[Tally] = []
        self._held: dict[Stream, bytes] = dict.fromkeys(_STREAMS, b"")

    @classmethod
    def standard(cls, *, output_to: Stream | None = None) -> Self:
        """Rich on a terminal, plain lines in a pipe; DAYFLY_QUIET=1 leaves the function's output and warnings."""
        quiet = os.environ.get("DAYFLY_QUIET", "") not in ("", "0")
        return cls(surface.standard(), quiet=quiet, output_to=output_to)

    @classmethod
    def silent(cls) -> Self:
        """Shows nothing at all."""
        return cls(Silence())

    def plan(self, plan: Plan, run_id: str) -> None:
        """Shows what is about to be created, and the most that it can cost."""
        self.run_id = run_id
        if not self._quiet:
            title = f"plan of run {run_id[:12]}" if run_id else "plan"
            rows = tuple((label, redact(text)) for label, text in wording.plan_rows(plan))
            self._surface.table(title, rows)

    def step(self, name: str, detail: str = "") -> None:
        """Begins a step; the one before it, if any, ends."""
        with self._surface.lock:
            self._end_step("")
            self._join()
            self._step = (name, time.monotonic(), redact(detail))
            self._show_live()

    def detail(self, text: str) -> None:
        """Says how far the step under way has come, in place of what it began with."""
        with self._surface.lock:
            if self._step is not None:
                self._step = (*self._step[:2], redact(text))

    def done(self, detail: str = "") -> None:
        """Ends the step under way; without a detail, the job as well.

        Args:
            detail: what came of the step; shown in place of what it began with.
        """
        with self._surface.lock:
            self._end_step(redact(detail))
            if not detail:
                self._leave()
            self._show_live()

    @property
    def is_live(self) -> bool:
        """Whether what goes on is drawn again and again."""
        return self._surface.is_live

    def take(self, tally: Tally) -> None:
        """Has it in the live line, beside the step under way."""
        with self._surface.lock:
            if tally not in self._tallies:
                self._tallies.append(tally)
                self._show_live()

    def drop(self, tally: Tally) -> bool:
        """Takes it out of the live line; False where it is not there."""
        with self._surface.lock:
            there = tally in self._tallies
            if there:
                self._tallies.remove(tally)
                self._show_live()
            return there

    def output(self, stream: Stream, data: bytes) -> None:
        """Passes the function's own output on, as it is and at once."""
        with self._surface.lock:
            alone = not self._is_one_of_several()
            if alone and not self._held[stream]:
                self._surface.raw(self._output_to or stream, data)
                return
            *lines, rest = (self._held[stream] + data).split(b"\n")
            self._held[stream] = b"" if alone else rest
            for line in lines:
                self._show_line(stream, line)
            if alone and rest:
                self._surface.raw(self._output_to or stream, rest)

    def note(self, text: str) -> None:
        """Says something in passing."""
        if not self._quiet:
            self._surface.line(self._labelled(redact(text)), "dim")

    def warning(self, text: str) -> None:
        """Says something that must be read; also when quiet."""
        self._surface.line(self._labelled(f"dayfly: {redact(text)}"), "bold red")

    def receipt(self, receipt: Receipt) -> None:
        """The end of the job: what is gone, who confirms it, and the bill."""
        with self._surface.lock:
            self._end_step("")
            if not self._quiet:
                lines = [wording.receipt_line(receipt), *receipt.notes]
                text = "\n".join(
                    f"{'receipt' if n == 0 else '':<12}{t}" for n, t in enumerate(lines)
                )
                self._surface.line(self._labelled(redact(text)), "green")
            self._leave()
            self._show_live()

    def kept(self, text: str) -> None:
        """The end of the job, whose machine stays: until when, and what ends it."""
        with self._surface.lock:
            self._end_step("")
            if not self._quiet:
                self._surface.line(self._labelled(redact(f"{'kept':<12}{text}")), "green")

    def _end_step(self, detail: str) -> None:
        if self._step is None:
            return
        name, since, begun_with = self._step
        self._step = None
        self.passing(name, time.monotonic() - since, detail or begun_with)

    def passing(self, name: str, took_s: float, text: str) -> None:
        """Says in a line what something has come to after a time."""
        if not self._quiet:
            line = f"{name:<12}{human_seconds(took_s):>9}  {redact(text)}".rstrip()
            self._surface.line(self._labelled(line))

    def _join(self) -> None:
        with _live_lock:
            if self not in _live:
                self._in_company = False
            _live.add(self)

    def _leave(self) -> None:
        for stream, rest in self._held.items():
            if rest:
                self._show_line(stream, rest)
            self._held[stream] = b""
        # A map whose values nobody has asked for never says that it is over.
        self._tallies.clear()
        with _live_lock:
            _live.discard(self)

    def _show_line(self, stream: Stream, line: bytes) -> None:
        label = f"{self.label} | ".encode() if self._is_one_of_several() else b""
        # A progress bar's own return to the start of the line must not eat the label.
        shown = line.rstrip(b"\r").replace(b"\r", b"\r" + label)
        self._surface.raw(self._output_to or stream, label + shown + b"\n")

    @property
    def label(self) -> str:
        """What tells this job's lines from another's."""
        return self.run_id[:8] or "new"

    def _labelled(self, text: str) -> str:
        if not self._is_one_of_several():
            return text
        return "\n".join(f"{self.label} | {line}" for line in text.split("\n"))

    def _is_one_of_several(self) -> bool:
        with _live_lock:
            if any(o is not self and o._surface is self._surface for o in _live):
                # For good: lines without a label among labelled ones would belong to anyone.
                self._in_company = True
        return self._in_company

    def _entries(self) -> list[tuple[str, float, str]]:
        """What goes on: name, since when, and how far it has come."""
        steps = [] if self._step is None else [self._step]
        return steps + [
            (tally.name, tally.since, f"{tally.bar} {tally.text}".strip())
            for tally in self._tallies
        ]

    def _show_live(self) -> None:
        if not self._quiet:
            self._surface.live(_steps)


def _steps() -> list[tuple[str, str, float, str]]:
    with _live_lock:
        displays = list(_live)
    several = len(displays) > 1
    return [
        (display.label if several else "", *entry)
        for display in displays
        if not display._quiet
        for entry in display._entries()
    ]
