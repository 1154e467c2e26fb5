"""Row `twenty_runs`: many runs at once complete, leave nothing, and do not take the computer's memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import psutil

from benchmarks import place
from benchmarks.report import Row, Say
from benchmarks.trial_twenty import RUNS

_MOST_BYTES = 3 * 2**30
_SAMPLE_S = 0.5


def measure(say: Say) -> Row:
    """20 runs at once in one process: all values right, nothing left, peak memory of everything below"""
    with place.new_home() as home:
        began = time.monotonic()
        process = place.start("trial_twenty", home)
        peak = _peak_while(process, home)
        right: int = place.answer(process, home)["right"]
        took_s = time.monotonic() - began
        left = place.leftovers(home)
        said = (home / "trial.err").read_text(errors="replace") if right < RUNS else ""
    summary = f"{right} of {RUNS} right, {len(left)} left, {took_s:.1f} s with teardown"
    say(f"{summary}, peak {peak / 2**30:.2f} GiB")
    complaints = [line for line in said.splitlines() if line.startswith("run ")]
    return Row(
        "twenty_runs",
        peak,
        "limit",
        _MOST_BYTES,
        "bytes",
        f"< 3 GiB, {RUNS} of {RUNS} right, nothing left",
        0 < peak < _MOST_BYTES and right == RUNS and not left,
        (summary, *complaints, *(f"left: {thing}" for thing in left)),
    )


def _peak_while(process: subprocess.Popen[bytes], home: Path) -> int:
    """The highest sum of proportional memory, over all descendants, those in sessions of their own too."""
    peak = 0
    while process.poll() is None:
        sample_began = time.monotonic()
        tree = {*psutil.Process().children(recursive=True), *place.processes(home)}
        peak = max(peak, sum(_pss_bytes(each) for each in tree if each.pid != os.getpid()))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, _SAMPLE_S - (time.monotonic() - sample_began)))
    return peak


def _pss_bytes(process: psutil.Process) -> int:
    """Shared pages counted by share; where the platform does not tell, what the process has for itself alone."""
    try:
        memory = process.memory_full_info()
    except (psutil.Error, OSError):
        return 0
    return int(getattr(memory, "pss", memory.uss))
