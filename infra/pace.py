"""Pace: no more requests than a provider allows, over all threads and processes of one user that use the same key."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_POLL_S = 0.02
# Beyond an interval, so long a turn may take before whoever has it counts as frozen.
_FROZEN_S = 10.0


class Pace:
    """The pace of one key.

    Each kind of request has a file that holds the time of the latest one. Whoever is next holds the file's lock while it
    waits, so that a process which dies while waiting takes no turn with it.

    Args:
        folder: where the files are; made where it is missing.
        key: the secret that the provider counts by; only its hash is used.
        intervals_s: seconds between two requests of a kind.
        now, sleep: time, so that tests need not wait for it.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        intervals_s: Mapping[str, float],
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._name = hashlib.sha256(f"dayfly-pace:{key}".encode()).hexdigest()[:16]
        self._intervals_s = intervals_s
        self._now = now
        self._sleep = sleep

    def wait(self, kind: str, check: Callable[[], None] = lambda: None) -> None:
        """Returns when a request of this kind may be sent.

        Args:
            kind: a key of `intervals_s`.
            check: asked while waiting; what it raises ends the wait and takes no turn.
        """
        interval_s = self._intervals_s[kind]
        if interval_s <= 0:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / f"{self._name}.{kind}"
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(descriptor, interval_s, check)
            self._sleep_until(descriptor, interval_s, check)
            os.pwrite(descriptor, f"{self._now():<24.6f}".encode(), 0)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, interval_s: float, check: Callable[[], None]) -> None:
        """Waits for the turn; a process that was stopped in the midst of its own must not hold up all others."""
        latest, until = None, 0.0
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                check()
            if latest != _latest(descriptor):
                latest = _latest(descriptor)
                until = self._now() + interval_s + _FROZEN_S
            elif self._now() >= until:
                return None
            self._sleep(_POLL_S)

    def _sleep_until(self, descriptor: int, interval_s: float, check: Callable[[], None]) -> None:
        began = self._now()
        latest = _latest(descriptor)
        # A clock that was set back must not turn into an hour of waiting.
        left = min(interval_s, latest + interval_s - began)
        while left > 0:
            check()
            self._sleep(min(left, 0.25))
            left -= 0.25


def _latest(descriptor: int) -> float:
    try:
        return float(os.pread(descriptor, 64, 0) or b"0")
    except ValueError:
        return 0.0
