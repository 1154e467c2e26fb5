"""Ray's local map: milliseconds of each item of maps of 1,000, where Ray is installed."""

import json
import os
import time

import ray

from benchmarks.trial_warm import ITEMS, MAPS


def increment(number: int) -> int:
    """The trivial function."""
    return number + 1


def maps() -> list[float]:
    """What each map takes for an item; the first one is not counted."""
    taken, remote = [], ray.remote(increment)
    for _ in range(1 + MAPS):
        began = time.perf_counter()
        values = ray.get([remote.remote(number) for number in range(ITEMS)])
        assert values == list(range(1, ITEMS + 1))
        taken.append((time.perf_counter() - began) * 1e3 / ITEMS)
    return taken[1:]


if __name__ == "__main__":
    # It would report to its makers.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    print(json.dumps(maps()))
    ray.shutdown()
