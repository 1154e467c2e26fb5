"""What is left of runs: processes, locks, pending operations, open journals; read with no code of the product's own."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psutil


def runs(home: Path) -> set[str]:
    """The ids of all runs that a state folder knows."""
    folder = home / "runs"
    return {entry.name for entry in os.scandir(folder)} if folder.exists() else set()


def journal(home: Path, run: str) -> list[dict[str, Any]]:
    """The lines of a run's journal that can be read."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (home / "runs" / run / "journal.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def events(home: Path, run: str) -> list[str]:
    """The names of a run's events."""
    return [str(line["event"]) for line in journal(home, run)]


def processes(*marks: str) -> Iterator[tuple[psutil.Process, list[str]]]:
    """Every live process that names one of the marks in its command line, or carries it as its run, stack or home."""
    wanted = set(marks)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command, variables = process.cmdline(), process.environ()
            carried = {variables.get(f"DAYFLY_{name}") for name in ("RUN", "STACK")}
            named = any(mark in part for mark in marks for part in command)
            if (named or wanted & carried) and process.status() != psutil.STATUS_ZOMBIE:
                yield process, command


def alive(*marks: str) -> list[str]:
    """Their command lines, this process apart."""
    return [
        " ".join(command) for process, command in processes(*marks) if process.pid != os.getpid()
    ]


def machines(run: str) -> list[int]:
    """The guardians of a run: what an instance is for the provider that is this computer."""
    return [
        process.pid
        for process, command in processes(run)
        if any(part.endswith("loopback.py") for part in command[:4])
    ]


def locks(home: Path) -> list[Path]:
    """Lock files of the engine."""
    return [path for path in (home / "state/.pulumi/locks").rglob("*") if path.is_file()]


def pending(home: Path, among: Collection[str] | None = None) -> list[str]:
    """Operations in states that were begun and never ended."""
    found = []
    for file in (home / "state/.pulumi/stacks").rglob("*.json"):
        if among is None or file.stem in among:
            latest = json.loads(file.read_text())["checkpoint"].get("latest") or {}
            found += [f"{file.stem}: {op['type']}" for op in latest.get("pending_operations") or []]
    return found


def stacks(home: Path) -> set[str]:
    """Stacks that the engine knows."""
    return {file.stem for file in (home / "state/.pulumi/stacks").rglob("*.json")}
