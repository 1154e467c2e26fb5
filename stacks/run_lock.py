"""Who may tear a run down: one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dayfly.errors import RunBusy

_WAIT_S = 180.0


@contextlib.contextmanager
def locked(directory: Path, wait_s: float | None = None) -> Iterator[None]:
    """Holds the run for this process.

    Args:
        directory: the run's own.
        wait_s: the longest wait; three minutes unless given.

    Raises:
        RunBusy: another process has held it for so long.
    """
    descriptor = os.open(directory / "close.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, directory, _WAIT_S if wait_s is None else wait_s)
        # Only for the message of whoever waits; a full disk is no reason not to go on.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, directory: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                holder = os.pread(descriptor, 32, 0).decode() or "?"
                raise RunBusy(
                    f"process {holder} is closing run {directory.name}; wait for it, or end it and try again"
                ) from None
            time.sleep(0.05)
