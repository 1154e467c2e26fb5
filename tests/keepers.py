"""The keeper of a test's own home, seen from outside and without any code of ours: its process, its acts, its end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil

_WAIT_S = 30.0


def process(home: Path) -> psutil.Process | None:
    """The keeper of a home; None where none lives."""
    for lock in (home / "keeper").glob("*.lock"):
        try:
            found = psutil.Process(int(json.loads(lock.read_text())["pid"]))
            # A pid is used again, and the lock keeps the last one.
            if "dayfly.runtime.keeper" in found.cmdline() and found.cwd() == str(home):
                return found
        except (ValueError, KeyError, psutil.Error):
            continue
    return None


def started(home: Path) -> psutil.Process:
    """The keeper, once it is there."""
    until = time.monotonic() + _WAIT_S
    while (found := process(home)) is None:
        assert time.monotonic() < until, "no keeper has started"
        time.sleep(0.05)
    return found


def end(home: Path) -> None:
    """Ends it as the system does at shutdown."""
    found = process(home)
    if found is not None:
        found.terminate()
        wait(found)


def wait(keeper: psutil.Process) -> None:
    """Waits for its end."""
    until = time.monotonic() + _WAIT_S
    while _is_alive(keeper):
        assert time.monotonic() < until, f"the keeper {keeper.pid} does not end"
        time.sleep(0.05)


def _is_alive(process: psutil.Process) -> bool:
    """A zombie is a client's that has not looked after its child."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def acts(home: Path) -> list[psutil.Process]:
    """What keepers of this home have started and has not ended."""
    found = []
    for each in psutil.process_iter():
        try:
            mine = each.environ().get("DAYFLY_HOME") == str(home)
            if mine and "dayfly.runtime.tend" in each.cmdline():
                found.append(each)
        except psutil.Error:
            continue
    return found
