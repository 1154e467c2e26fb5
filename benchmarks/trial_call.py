"""One call whose function prints all the time, until a file is there: what is done to it meanwhile is the row's affair.

Run as `python -m benchmarks.trial_call PROVIDER FILE`; says when the call came to its end, and how.
"""

import json
import sys
import time
from pathlib import Path

from dayfly import cluster
from dayfly.errors import InstanceLost

STEP, LAMBDA_TYPE = "step", "gpu_1x_a10"
_LAMBDA = cluster(provider="lambda", instance_type=LAMBDA_TYPE, environment=[], time="30m")
# The result is brought home without its client, and its machine need not be kept for that.
_LOCAL = cluster(provider="local", environment=[], time="30m", hold="1s")


def until(file: str) -> int:
    """Counts, aloud."""
    lines = 0
    while not Path(file).exists():
        print(STEP, lines, flush=True)
        lines += 1
        time.sleep(0.05)
    return lines


if __name__ == "__main__":
    call = (_LAMBDA if sys.argv[1] == "lambda" else _LOCAL)(until)
    try:
        said: dict[str, object] = {"lines": call(sys.argv[2])}
    except InstanceLost as lost:
        said = {"lost": lost.state}
    print(json.dumps(said | {"at": time.time()}))
