"""Row `map_1000`: an item of a map of 1,000 trivial ones."""

from __future__ import annotations

import statistics

from benchmarks import peers, place, sshd
from benchmarks.report import Row, Say

_TRIALS = 3
_MOST, _MOST_OF_RAY = 0.15, 0.5


def measure(say: Say) -> Row:
    """maps of 1,000 items through one session, per item, against a Dask SSHCluster and Ray's local map; medians of 3 in turn"""
    missing = peers.missing(["ray"])
    ours: list[float] = []
    peer: list[float] = []
    ray: list[float] = []
    with place.new_home() as home, sshd.serving(home / "peer") as port:
        for number in range(_TRIALS):
            ours.append(statistics.median(place.trial("trial_warm", home, "map")))
            there = [str(home / "peer"), str(port)]
            peer.append(statistics.median(place.trial("trial_dask", home, "map", *there)))
            if not missing:
                ray.append(statistics.median(place.trial("trial_ray", home)))
            say(f"{number + 1} of {_TRIALS}: ours {ours[-1]:.3f} ms, Dask {peer[-1]:.3f} ms")
    value, other = statistics.median(ours), statistics.median(peer)
    holds, notes = not missing and value <= _MOST * other, [f"{value:.3f} ms an item"]
    if ray:
        local = statistics.median(ray)
        holds = holds and value <= _MOST_OF_RAY * local
        notes.append(
            f"Ray's local map took {local:.3f} ms an item, ours {value / local:.2f} of that"
        )
    return Row(
        "map_1000",
        round(value, 3),
        "dask SSHCluster",
        round(other, 3),
        "ms",
        f"<= {_MOST} x peer and <= {_MOST_OF_RAY} x Ray's",
        holds,
        (*notes, *map(peers.advice, missing)),
    )
