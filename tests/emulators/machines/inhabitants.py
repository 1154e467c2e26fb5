"""Who lives in which PID namespace, read from /proc: also those whose parent is outside of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def namespace(pid: int) -> str:
    """The PID namespace of a process, "" where it is gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def of(namespaces: Iterable[str]) -> dict[str, list[int]]:
    """The processes of each namespace, in one walk over all of this computer's."""
    found: dict[str, list[int]] = {each: [] for each in namespaces}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            home = namespace(int(entry.name))
            if home in found:
                found[home].append(int(entry.name))
    return found


def name(pid: int) -> str:
    """What a process is called, "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def state(pid: int) -> str:
    """How the kernel has it: T is stopped, Z has ended, X is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
