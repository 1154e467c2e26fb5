"""A power cut as files see it: what a process had not brought to the disk by the time of its end is gone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

# Records whose every line has to be on the disk before anything follows from it.
_RECORDS = ("journal.jsonl", "creations.jsonl")
_SUFFIX = ".synced"


def remember_synced() -> None:
    """From here on this process notes how much of each record it has brought to the disk."""
    real: Any = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if name.endswith(_RECORDS):
            Path(name + _SUFFIX).write_text(str(os.fstat(descriptor).st_size))

    os.fsync = fsync  # type: ignore[assignment]


def cut(directory: Path) -> list[str]:
    """Takes away from a run's records what was not on the disk.

    Returns:
        What was lost of which.
    """
    lost = []
    for name in _RECORDS:
        file, noted = directory / name, directory / (name + _SUFFIX)
        if file.exists():
            synced = int(noted.read_text() or 0) if noted.exists() else 0
            if file.stat().st_size > synced:
                lost.append(f"{file.stat().st_size - synced} bytes of {name}")
                os.truncate(file, synced)
        with contextlib.suppress(FileNotFoundError):
            noted.unlink()
    return lost
