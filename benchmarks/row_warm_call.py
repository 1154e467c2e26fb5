"""Row `warm_call`: one call of a session, in a process of its own."""

from __future__ import annotations

import statistics

from benchmarks import place, sshd
from benchmarks.report import Row, Say

_TRIALS = 3
_MOST_MS, _MOST = 4.0, 0.4


def measure(say: Say) -> Row:
    """300 calls of a session, a forked child each, against a Dask SSHCluster; medians of 3 p50s in turn"""
    ours: list[float] = []
    peer: list[float] = []
    with place.new_home() as home, sshd.serving(home / "peer") as port:
        for number in range(_TRIALS):
            ours.append(statistics.median(place.trial("trial_warm", home, "fork")))
            there = [str(home / "peer"), str(port)]
            peer.append(statistics.median(place.trial("trial_dask", home, "call", *there)))
            say(f"{number + 1} of {_TRIALS}: ours {ours[-1]:.2f} ms, Dask {peer[-1]:.2f} ms")
    value, other = statistics.median(ours), statistics.median(peer)
    return Row(
        "warm_call",
        round(value, 3),
        "dask SSHCluster",
        round(other, 3),
        "ms",
        f"<= {_MOST_MS:.0f} ms and <= {_MOST} x peer",
        value <= _MOST_MS and value <= _MOST * other,
    )
