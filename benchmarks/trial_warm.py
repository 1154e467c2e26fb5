"""Calls of one session in a fresh process: milliseconds of each of 300, or of each item of maps of 1,000.

`python -m benchmarks.trial_warm fork|process|map`
"""

import json
import sys
import time

from dayfly import cluster

CALLS, ITEMS, MAPS, WARM_UP = 300, 1000, 5, 30


@cluster(provider="local", environment=[])
def increment(number: int) -> int:
    """The trivial function."""
    return number + 1


def calls(isolation: str) -> list[float]:
    """What each call takes, from the call to its value."""
    taken = []
    with increment.session(isolation="process" if isolation == "process" else "fork") as s:
        for number in range(WARM_UP + CALLS):
            began = time.perf_counter()
            assert s(number) == number + 1
            taken.append((time.perf_counter() - began) * 1e3)
    return taken[WARM_UP:]


def maps() -> list[float]:
    """What each map takes for an item; the first one is not counted."""
    taken = []
    with increment.session() as s:
        for _ in range(1 + MAPS):
            began = time.perf_counter()
            assert list(s.map(range(ITEMS))) == list(range(1, ITEMS + 1))
            taken.append((time.perf_counter() - began) * 1e3 / ITEMS)
    return taken[1:]


if __name__ == "__main__":
    print(json.dumps(maps() if sys.argv[1] == "map" else calls(sys.argv[1])))
