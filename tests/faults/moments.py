"""Moments: named points of a run's life, seen from outside by its journal and its machine's files."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import left

_POLL_S = 0.0005

Reached = Callable[[Path, str], bool]


def _event(name: str) -> Reached:
    return lambda home, run: name in left.events(home, run)


def _file(*parts: str) -> Reached:
    return lambda home, run: Path(
        home, "runs", run, "machine", *(p.replace("RUN", run) for p in parts)
    ).exists()


def _removed(home: Path, run: str) -> bool:
    directory = home / "runs" / run
    closing = "closing" in left.events(home, run)
    return (
        closing
        and not (directory / "machine").exists()
        and not (directory / "receipt.json").exists()
    )


# In the order of a run's life; of the provider that is this computer, "the POST" starts the guardian.
POINTS: dict[str, Reached] = {
    "before POST": _file(),
    "accepted": _file("guardian.log"),
    "answered": _event("launched"),
    "recorded": _event("machine"),
    "running": _event("job_started"),
    "finished": _file("home", "job-RUN", "result.sealed"),
    "destroying": _event("closing"),
    "removed": _removed,
}


def wait_for_run(
    home: Path, before: set[str], client: subprocess.Popen[bytes], wait_s: float
) -> str | None:
    """The new run; None where the client ended before there was one."""
    until = time.monotonic() + wait_s
    while client.poll() is None and time.monotonic() < until:
        for run in left.runs(home) - before:
            return run
        time.sleep(_POLL_S)
    return None


def wait_for(
    reached: Reached, home: Path, run: str, client: subprocess.Popen[bytes], wait_s: float
) -> bool:
    """Waits for a moment; False where the client ended before."""
    until = time.monotonic() + wait_s
    while client.poll() is None and time.monotonic() < until:
        if reached(home, run):
            return True
        time.sleep(_POLL_S)
    return False
