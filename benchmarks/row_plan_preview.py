"""Row `plan_preview`: what a plan by the engine takes beside the plain CLI's preview of the same program."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping

from benchmarks import clouds, place
from benchmarks.plain import Plain
from benchmarks.report import Row, Say

_TRIALS = 5
_MOST_RATIO = 1.3
_CLOUD = "aws"


def measure(say: Say) -> Row:
    """the whole command `dayfly plan`, against `pulumi preview` of the same program in a stack that is there; medians of 5 in turn on this computer and on a stand-in cloud, aws, and the one of them with the larger ratio"""
    medians = {"local": _medians("local", "LocalInstance", {}, {})}
    with clouds.emulated(_CLOUD) as cloud:
        variables = cloud.emulator.environment()
        asked = {**cloud.machine, "region": cloud.region}
        medians[_CLOUD] = _medians(_CLOUD, "aws:ec2/instance:Instance", asked, variables)
    notes = []
    for name, (ours, peer) in medians.items():
        say(f"{name}: dayfly plan {ours:.2f} s, pulumi preview {peer:.2f} s")
        notes.append(f"{name}: {ours / peer:.2f} x pulumi preview")
    value, floor = max(medians.values(), key=lambda pair: pair[0] / pair[1])
    return Row(
        "plan_preview",
        round(value, 3),
        "pulumi preview",
        round(floor, 3),
        "s",
        f"<= {_MOST_RATIO:g} x peer",
        value <= _MOST_RATIO * floor,
        tuple(notes),
    )


def _medians(
    provider: str, machine: str, asked: Mapping[str, str], variables: Mapping[str, str]
) -> tuple[float, float]:
    """Seconds that the plan and the preview take.

    Args:
        provider: on which.
        machine: type of the resource that the engine has to have listed.
        asked: fields of the Spec.
        variables: what both see beside.
    """
    ours: list[float] = []
    peer: list[float] = []
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    command = (sys.executable, "-m", "dayfly.runtime.cli", "plan", "--provider", provider, *options)
    with place.new_home(variables) as home:
        plain = Plain(home, {"provider": provider, **asked}, variables)
        for _ in range(_TRIALS + 1):
            began = time.perf_counter()
            told = place.run(command, home, variables)
            ours.append(time.perf_counter() - began)
            peer.append(plain.preview())
            # The recorder, which needs no engine, says so.
            if machine not in told or "recorder" in told:
                raise place.TrialFailed(told)
    # The first of each may have had bytecode to write.
    return statistics.median(ours[1:]), statistics.median(peer[1:])
