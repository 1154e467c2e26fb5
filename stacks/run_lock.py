"""Who may tear a run down: one process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dayfly.errors import RunBusy
from dayfly.stacks import file_lock

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

    def busy(holder: str) -> RunBusy:
        return RunBusy(
            f"process {holder} is closing run {directory.name}; wait for it, or end it and try again"
        )

    with file_lock.held(directory / "close.lock", _WAIT_S if wait_s is None else wait_s, busy):
        yield
