"""File lock: held by one process at a time, and waited for no longer than is said."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dayfly.errors import DayflyError

_STEP_S = 0.05


@contextlib.contextmanager
def held(file: Path, wait_s: float, busy: Callable[[str], DayflyError]) -> Iterator[int]:
    """Holds a file for this process, and for those that it hands the descriptor to, until all of them are through.

    Args:
        file: made where it is missing.
        wait_s: the longest wait.
        busy: makes the error of a wait that was too long from who holds it, "?" where that is not known.

    Yields:
        The locked descriptor.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, wait_s, busy)
        # Only for the message of whoever waits; a full disk is no reason not to go on.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, wait_s: float, busy: Callable[[str], DayflyError]) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise busy(os.pread(descriptor, 32, 0).decode() or "?") from None
            time.sleep(_STEP_S)
