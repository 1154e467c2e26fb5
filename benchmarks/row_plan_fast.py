"""Row `plan_fast`: a ladder over all providers with prices, worst cases and known resources, from nobody."""

from __future__ import annotations

import statistics
import sysconfig
import time
from pathlib import Path

from benchmarks import place
from benchmarks.report import Row, Say
from dayfly.infra import providers

_TRIALS = 11
_MOST_S = 0.3
_ASKED = ("--gpu", "A100:1")


def measure(say: Say) -> Row:
    """the whole command `dayfly plan --fast --gpu A100:1` over all providers that make machines, resources known from a plan before; against `dayfly --version`; medians of 11 in turn"""
    program = str(Path(sysconfig.get_path("scripts")) / "dayfly")
    # A machine of one's own has to be named, and nobody asks it in a fast plan.
    made = [name for name in providers.names() if "host" not in providers.load(name).takes]
    names = ",".join(made)
    plan = (program, "plan", *_ASKED, "--provider", names)
    fast, least = (*plan, "--fast"), (program, "--version")
    ours: list[float] = []
    peer: list[float] = []
    with place.new_home() as home:
        place.run(plan, home)  # Whoever can be asked has been asked once.
        told = place.run(fast, home)
        if "not asked again" not in told:
            raise place.TrialFailed(f"no resources are known to a fast plan:\n{told}")
        for _ in range(_TRIALS):
            ours.append(_seconds(fast, home))
            peer.append(_seconds(least, home))
    value, floor = statistics.median(ours), statistics.median(peer)
    say(f"over {names}: {value:.3f} s; --version alone {floor:.3f} s")
    return Row(
        "plan_fast",
        round(value, 3),
        "dayfly --version",
        round(floor, 3),
        "s",
        f"<= {_MOST_S:g} s",
        value <= _MOST_S,
    )


def _seconds(command: tuple[str, ...], home: Path) -> float:
    began = time.perf_counter()
    place.run(command, home)
    return time.perf_counter() - began
