"""Row `cloud_up`: what a call on a cloud adds to the plain CLI's `up` of the same program."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from pathlib import Path

from benchmarks import clouds, place
from benchmarks.clouds import Cloud
from benchmarks.plain import Plain
from benchmarks.report import Row, Say

_TRIALS = 3
_MOST_S = 3.0


def measure(say: Say) -> Row:
    """from the start of a script to its function running on a stand-in cloud, against the whole `pulumi up` of the same program there; medians of 3 in turn on each of aws, azure and gcp, and the cloud with the largest difference"""
    medians: dict[str, tuple[float, float]] = {}
    left: list[str] = []
    for name in clouds.NAMES:
        with contextlib.ExitStack() as stack:
            cloud = stack.enter_context(clouds.emulated(name))
            variables = cloud.emulator.environment()
            home, other = (stack.enter_context(place.new_home(variables)) for _ in range(2))
            asked = {**cloud.machine, "region": cloud.region}
            plain = Plain(other, {"provider": name, **asked}, variables)
            ours, peer = [], []
            for _ in range(_TRIALS):
                ours.append(_seconds(name, asked, cloud, home))
                peer.append(plain.up())
                plain.destroy()
            left += [f"{name}: left: {thing}" for thing in place.leftovers(home)]
        medians[name] = statistics.median(ours), statistics.median(peer)
        say(f"{name}: ours {medians[name][0]:.2f} s, pulumi up {medians[name][1]:.2f} s")
    value, floor = max(medians.values(), key=lambda pair: pair[0] - pair[1])
    return Row(
        "cloud_up",
        round(value, 3),
        "pulumi up",
        round(floor, 3),
        "s",
        f"<= peer + {_MOST_S:g} s",
        value <= floor + _MOST_S and not left,
        (
            *(f"{name} adds {ours - peer:+.2f} s" for name, (ours, peer) in medians.items()),
            *left,
        ),
    )


def _seconds(name: str, asked: dict[str, str], cloud: Cloud, home: Path) -> float:
    variables = cloud.emulator.environment()
    began = time.time()
    process = place.start("trial_cloud", home, name, json.dumps(asked), variables=variables)
    at: float = place.answer(process, home)["at"]
    return at - began
