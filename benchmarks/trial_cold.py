"""One cold call in a fresh process: nothing is loaded but `dayfly`, and the clock runs from the call to the value."""

import json
import time

from dayfly import cluster


@cluster(provider="local", environment=[])
def double(number: int) -> int:
    """The trivial function."""
    return number * 2


if __name__ == "__main__":
    began = time.perf_counter()
    value = double(21)
    print(json.dumps({"value": value, "seconds": time.perf_counter() - began}))
