"""Row `plan_preview`: what a plan by the engine takes beside the plain CLI's preview of the same program."""

from __future__ import annotations

import statistics
import sys
import time

from benchmarks import place
from benchmarks.plain import Plain
from benchmarks.report import Row, Say

_TRIALS = 5
_MOST_RATIO = 1.3


def measure(say: Say) -> Row:
    """the whole command `dayfly plan --provider local`, against `pulumi preview` of the same program in a stack that is there; medians of 5 in turn"""
    ours: list[float] = []
    peer: list[float] = []
    command = (sys.executable, "-m", "dayfly.runtime.cli", "plan", "--provider", "local")
    with place.new_home() as home:
        plain = Plain(home, {"provider": "local"})
        for _ in range(_TRIALS + 1):
            began = time.perf_counter()
            told = place.run(command, home)
            ours.append(time.perf_counter() - began)
            peer.append(plain.preview())
            if "LocalInstance" not in told:
                raise place.TrialFailed(told)
    # The first of each may have had bytecode to write.
    value, floor = statistics.median(ours[1:]), statistics.median(peer[1:])
    say(f"dayfly plan {value:.2f} s, pulumi preview {floor:.2f} s")
    return Row(
        "plan_preview",
        round(value, 3),
        "pulumi preview",
        round(floor, 3),
        "s",
        f"<= {_MOST_RATIO:g} x peer",
        value <= _MOST_RATIO * floor,
    )
