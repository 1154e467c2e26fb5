"""Watch: one thread that sees to every open link of this process, however many there are."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Protocol


class Watched(Protocol):
    """Something that wants to be looked after now and then."""

    def look(self) -> None:
        """Does what is due; must neither block nor raise."""


class Watch:
    """A round a period, in a thread that is there while anything is watched.

    Args:
        period_s: gives the seconds between two rounds.
    """

    def __init__(self, period_s: Callable[[], float]) -> None:
        self._period_s = period_s
        self._watched: set[Watched] = set()
        self._lock = threading.Lock()
        self._empty = threading.Event()
        self._thread: threading.Thread | None = None
        # A forked child has neither the thread nor the connections.
        os.register_at_fork(after_in_child=self._forget)

    def add(self, watched: Watched) -> None:
        """From now on it is looked after."""
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                self._empty.clear()
                self._thread = threading.Thread(target=self._go, name="dayfly-watch", daemon=True)
                self._thread.start()

    def remove(self, watched: Watched) -> None:
        """It has ended; twice is fine."""
        with self._lock:
            self._watched.discard(watched)
            if not self._watched:
                self._empty.set()

    def round(self) -> None:
        """Looks after each once."""
        with self._lock:
            watched = list(self._watched)
        for each in watched:
            # Whatever is wrong with one is for its own user to hear; the others need the next round.
            with contextlib.suppress(Exception):
                each.look()

    def _go(self) -> None:
        while True:
            self._empty.wait(self._period_s())
            with self._lock:
                if not self._watched:
                    self._thread = None
                    return
                self._empty.clear()
            self.round()

    def _forget(self) -> None:
        self._watched.clear()
        self._lock, self._empty = threading.Lock(), threading.Event()
        self._thread = None
