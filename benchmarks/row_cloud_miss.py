"""Row `cloud_miss`: how long after a cloud's "no capacity" the next rung's first request comes."""

from __future__ import annotations

import contextlib
import json

from benchmarks import clouds, place, report
from benchmarks.report import Row, Say

_TRIALS = 2
_MOST_S = 5.0


def measure(say: Say) -> Row:
    """from a stand-in cloud's first refusal of a machine to its first request for the next rung, through the engine and the vendor's SDK; twice each on aws, azure and gcp"""
    took: list[float] = []
    problems: list[str] = []
    for name in clouds.NAMES:
        for _ in range(_TRIALS):
            with contextlib.ExitStack() as stack:
                cloud = stack.enter_context(clouds.emulated(name))
                cloud.sell_out()
                variables = cloud.emulator.environment()
                home = stack.enter_context(place.new_home(variables))
                options = json.dumps(dict(cloud.machine))
                process = place.start("trial_cloud", home, name, options, variables=variables)
                place.answer(process, home)
                took.append(cloud.moved_on_s())
                problems += [f"{name}: left: {thing}" for thing in place.leftovers(home)]
            say(f"{name}: {took[-1]:.2f} s")
    return report.bound("cloud_miss", took, _MOST_S, problems)
