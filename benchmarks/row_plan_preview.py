"""Row `plan_preview`: what a plan by the engine takes beside the plain CLI's preview of the same program."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import place
from benchmarks.report import Row, Say

_TRIALS = 5
_MOST_RATIO = 1.3


def measure(say: Say) -> Row:
    """the whole command `dayfly plan --provider local`, against `pulumi preview` of the same program in a stack that is there; medians of 5 in turn"""
    ours: list[float] = []
    peer: list[float] = []
    command = (sys.executable, "-m", "dayfly.runtime.cli")
    with place.new_home() as home:
        variables = _exported(place.run((*command, "engine", "env"), home))
        project = _project(home)
        for setting in (("stack", "init", "bench"), ("config", "set", "dayfly:provider", "local")):
            place.run(("pulumi", *setting, "--non-interactive"), home, variables, project)
        plan, preview = (*command, "plan", "--provider", "local"), ("pulumi", "preview")
        for _ in range(_TRIALS + 1):
            began = time.perf_counter()
            told = place.run(plan, home)
            between = time.perf_counter()
            place.run((*preview, "--non-interactive"), home, variables, project)
            ours.append(between - began)
            peer.append(time.perf_counter() - between)
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


def _exported(lines: str) -> Mapping[str, str]:
    """The variables of `dayfly engine env`."""
    return dict(shlex.split(line)[1].split("=", 1) for line in lines.splitlines())


def _project(home: Path) -> Path:
    """A copy of the checkout's own Pulumi project, whose stack files belong to nobody."""
    folder = home / "project"
    (folder / "stacks").mkdir(parents=True)
    for file in ("Pulumi.yaml", os.path.join("stacks", "__main__.py")):  # noqa: PTH118
        shutil.copy(place.ROOT / file, folder / file)
    return folder
