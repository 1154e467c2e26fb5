"""One call on a stand-in cloud, whose function says when it runs; `python -m benchmarks.trial_cloud PROVIDER OPTIONS`, as JSON."""

import json
import sys
import time

from dayfly import cluster


def now() -> float:
    """When the function runs, by this computer's clock, which is the machine's, too."""
    return time.time()


if __name__ == "__main__":
    provider, options = sys.argv[1], json.loads(sys.argv[2])
    call = cluster(provider=provider, environment=[], time="30m", **options)(now)
    print(json.dumps({"at": call()}))
