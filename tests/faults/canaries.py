"""Canaries: values that must not be found again, and the search for them in files, command lines and environments."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_WATCH_S = 0.03


@dataclass(frozen=True)
class Canaries:
    """So many values with one mark in all of them, which one search finds in clear and in base64.

    Attributes:
        mark: eighteen letters that are nowhere else.
    """

    mark: str

    def value(self, name: str) -> str:
        """The canary of this name."""
        return f"{name.replace('_', '').lower()}{self.mark}"

    @property
    def needles(self) -> tuple[bytes, ...]:
        """The mark as it may be written."""
        plain = self.mark.encode()
        coded = [base64.b64encode(b"-" * shift + plain)[4:20] for shift in range(3)]
        return (plain, *coded)

    def within(self, data: bytes) -> list[str]:
        """The canaries that are in some bytes."""
        found = []
        for needle in self.needles:
            place = data.find(needle)
            while place >= 0:
                found.append(_word_around(data, place, len(needle)))
                place = data.find(needle, place + 1)
        return sorted(set(found))


def _word_around(data: bytes, place: int, length: int) -> str:
    start = place
    while start > 0 and place - start < 20 and chr(data[start - 1]).isalnum():
        start -= 1
    return data[start : place + length].decode(errors="replace")


def in_files(canaries: Canaries, *roots: Path) -> Iterator[str]:
    """Every file below the roots that has one."""
    for root in roots:
        for file in sorted(root.rglob("*")):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(file.lstat().st_mode) and (
                    found := canaries.within(file.read_bytes())
                ):
                    yield f"{', '.join(found)} in {file}"


@dataclass
class Watch:
    """Looks at every process's command line, at the environments of engine and machine, and at some folders, all the time.

    Lifecycle: entering starts it, leaving ends it.

    Attributes:
        canaries: what is looked for anywhere.
        foreign: values that neither the engine nor the machine may have in its environment.
        folders: whose files must not have one at any moment.
        engines: values that the engine alone may have besides: its provider's credentials.
        found: where something was.
    """

    canaries: Canaries
    foreign: Sequence[str]
    folders: Sequence[Path]
    engines: Sequence[str] = ()
    found: set[str] = field(default_factory=set)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join()

    def _work(self) -> None:
        while not self._end.wait(_WATCH_S):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        self._look_at(Path(entry.path))
            self.found |= set(in_files(self.canaries, *self.folders))

    def _look_at(self, process: Path) -> None:
        command = (process / "cmdline").read_bytes()
        for name in self.canaries.within(command):
            self.found.add(f"{name} in the command line of {command[:60]!r}")
        environment = (process / "environ").read_bytes()
        engine, machine = b"DAYFLY_STACK=" in environment, b"\0DAYFLY_RUN=" in environment
        if engine or machine:
            for value in [*self.foreign, *([] if engine else self.engines)]:
                if value.encode() in environment:
                    self.found.add(f"{value} in the environment of {command[:60]!r}")
