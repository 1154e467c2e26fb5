"""Calls of execnet over the system's ssh: milliseconds of each of 300.

`python -m benchmarks.trial_execnet FOLDER PORT`, the folder with the keys of the server
"""

import json
import shlex
import sys
import time
from pathlib import Path

import execnet

from benchmarks import sshd
from benchmarks.trial_warm import CALLS, WARM_UP

_REMOTE = """
while True:
    channel.send(channel.receive() + 1)
"""


def calls(folder: Path, port: int) -> list[float]:
    """What each takes, from the number to its answer."""
    _, *arguments, address, _ = sshd.client(folder, port, "")
    specification = f"ssh={shlex.join([*arguments, address])}//python={sys.executable}"
    gateway = execnet.makegateway(specification)
    channel = gateway.remote_exec(_REMOTE)
    taken = []
    for number in range(WARM_UP + CALLS):
        began = time.perf_counter()
        channel.send(number)
        assert channel.receive() == number + 1
        taken.append((time.perf_counter() - began) * 1e3)
    gateway.exit()
    return taken[WARM_UP:]


if __name__ == "__main__":
    print(json.dumps(calls(Path(sys.argv[1]), int(sys.argv[2]))))
