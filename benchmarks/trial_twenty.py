"""Twenty runs at once in one process, each with its own stack and machine."""

import json
import sys

from dayfly import cluster

RUNS = 20


@cluster(provider="local", environment=[])
def square(number: int) -> int:
    """The trivial function."""
    return number * number


if __name__ == "__main__":
    jobs = [square.submit(number) for number in range(RUNS)]
    right = 0
    for number, job in enumerate(jobs):
        try:
            right += job.result() == number * number
            job.receipt()
        except Exception as error:  # noqa: BLE001  # the other runs still count
            print(f"run {number}: {type(error).__name__}: {error}", file=sys.stderr)
    print(json.dumps({"right": right}))
