"""Row `log_latency`: how old a line of the function's output is when its user sees it."""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path

from benchmarks import place, sshd
from benchmarks.report import Row, Say
from benchmarks.trial_log import LINES, PAUSE_S

_TRIALS = 3
_MOST_MS = 3.0
_SCRIPT = f"""
import time
for _ in range({LINES}):
    print(time.time_ns(), flush=True)
    time.sleep({PAUSE_S})
"""


def measure(say: Say) -> Row:
    """100 lines, 20 ms apart, from written to shown, against the system's ssh; medians of 3 p50s in turn"""
    ours: list[float] = []
    peer: list[float] = []
    with place.new_home() as home, sshd.serving(home / "peer") as port:
        for number in range(_TRIALS):
            ours.append(_p50(place.trial("trial_log", home)))
            peer.append(_p50(_over_ssh(home / "peer", port)))
            say(f"{number + 1} of {_TRIALS}: ours {ours[-1]:.1f} ms, ssh {peer[-1]:.1f} ms")
    value = statistics.median(ours)
    return Row(
        "log_latency",
        round(value, 3),
        "ssh",
        round(statistics.median(peer), 3),
        "ms",
        f"<= {_MOST_MS:.0f} ms",
        value <= _MOST_MS,
    )


def _p50(delays_ms: list[float]) -> float:
    if len(delays_ms) != LINES:
        raise place.TrialFailed(f"{len(delays_ms)} of {LINES} lines came")
    return statistics.median(delays_ms)


def _over_ssh(folder: Path, port: int) -> list[float]:
    """The same lines through the system's client."""
    command = sshd.client(folder, port, f"python3 -c '{_SCRIPT}'")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        return [(time.time_ns() - int(line)) / 1e6 for line in client.stdout]
