"""Row `warm_call_inline`: one call of a session whose calls are made in one process that stays."""

from __future__ import annotations

import statistics

from benchmarks import place, sshd
from benchmarks.report import Row, Say

_TRIALS = 3
_MOST = 1.5


def measure(say: Say) -> Row:
    """300 calls of a session with isolation="process", against execnet over the system's ssh; medians of 3 p50s in turn"""
    ours: list[float] = []
    peer: list[float] = []
    with place.new_home() as home, sshd.serving(home / "peer") as port:
        for number in range(_TRIALS):
            ours.append(statistics.median(place.trial("trial_warm", home, "process")))
            there = [str(home / "peer"), str(port)]
            peer.append(statistics.median(place.trial("trial_execnet", home, "call", *there)))
            say(f"{number + 1} of {_TRIALS}: ours {ours[-1]:.2f} ms, execnet {peer[-1]:.2f} ms")
    value, other = statistics.median(ours), statistics.median(peer)
    return Row(
        "warm_call_inline",
        round(value, 3),
        "execnet ssh",
        round(other, 3),
        "ms",
        f"<= {_MOST} x peer",
        value <= _MOST * other,
    )
