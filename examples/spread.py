"""The items of one map on four machines that exist for it only, given out by Dask.

All four are this computer, each with a home, an SSH server and a port of its own; Dask is installed there, by the run itself.
"""

from __future__ import annotations

from dayfly import cluster


@cluster(provider="local", nodes=4, environment=[], time="15m", job_name="spread")
def inside(seed: int) -> tuple[str, int]:
    """How many of a hundred thousand points lie inside the circle, and whose home they were counted in."""
    import os
    import random

    point = random.Random(seed).random
    hits = sum(point() ** 2 + point() ** 2 < 1 for _ in range(100_000))
    return os.environ["HOME"], hits


if __name__ == "__main__":
    with inside.session(
        slots=1
    ) as s:  # one call at a time on each; inside.map(range(40)) is the same with all cores
        print("dashboard", s.dashboard)
        found = list(s.map(range(40)))
    print("pi is about", 4 * sum(hits for _, hits in found) / (len(found) * 100_000))
    print("machines", len({home for home, _ in found}))
