"""Row `cold`: what Dayfly adds to the least that Pulumi and SSH take for the same value."""

from __future__ import annotations

import statistics

from benchmarks import place
from benchmarks.report import Row, Say

_TRIALS = 7
_MOST = 1.15


def measure(say: Say) -> Row:
    """from the call to the value of a trivial function, against a plain automation-API script; medians of 7 in turn"""
    ours: list[float] = []
    floor: list[float] = []
    with place.new_home() as home, place.new_home() as plain:
        for number in range(_TRIALS):
            ours.append(_seconds(place.trial("trial_cold", home)))
            floor.append(_seconds(place.trial("floor", plain, str(plain), f"floor-{number}")))
            say(f"{number + 1} of {_TRIALS}: ours {ours[-1]:.2f} s, floor {floor[-1]:.2f} s")
        left = [*place.leftovers(home), *place.leftovers(plain)]
    value, peer = statistics.median(ours), statistics.median(floor)
    return Row(
        "cold",
        round(value, 4),
        "plain automation API + ssh",
        round(peer, 4),
        "s",
        f"<= {_MOST} x peer",
        value <= _MOST * peer and not left,
        tuple(f"left: {thing}" for thing in left),
    )


def _seconds(answer: dict[str, float]) -> float:
    if answer["value"] != 42:
        raise place.TrialFailed(f"a wrong value came back: {answer}")
    return answer["seconds"]
