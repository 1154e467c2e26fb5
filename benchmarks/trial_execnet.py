"""execnet over the system's ssh: milliseconds of each of 300 calls, or the seconds of 100 MB there or back.

`python -m benchmarks.trial_execnet call|in|out FOLDER PORT`, the folder with the keys of the server
"""

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import execnet

from benchmarks import sshd
from benchmarks.peers import BLOCK_BYTES, BLOCKS, BYTES
from benchmarks.trial_warm import CALLS, WARM_UP

_INCREMENT = """
while True:
    channel.send(channel.receive() + 1)
"""
# What is done with the bytes of an array, and what makes them.
_LAST_BYTE = """
while True:
    channel.send(channel.receive()[-1])
"""
_REPEATED = """
while True:
    block, blocks = channel.receive()
    channel.send(block * blocks)
"""


def calls(gateway: Any) -> list[float]:
    """What each takes, from the number to its answer."""
    channel = gateway.remote_exec(_INCREMENT)
    taken = []
    for number in range(WARM_UP + CALLS):
        began = time.perf_counter()
        channel.send(number)
        assert channel.receive() == number + 1
        taken.append((time.perf_counter() - began) * 1e3)
    return taken[WARM_UP:]


def there(gateway: Any) -> float:
    """What an array's bytes take on their way to their last one."""
    channel, block = gateway.remote_exec(_LAST_BYTE), os.urandom(BLOCK_BYTES)
    sent = block * BLOCKS
    channel.send(block)
    assert channel.receive() == block[-1]
    began = time.perf_counter()
    channel.send(sent)
    assert channel.receive() == block[-1]
    return time.perf_counter() - began


def back(gateway: Any) -> float:
    """What they take on their way here."""
    channel, block = gateway.remote_exec(_REPEATED), os.urandom(BLOCK_BYTES)
    channel.send((block, 1))
    assert channel.receive() == block
    began = time.perf_counter()
    channel.send((block, BLOCKS))
    value = channel.receive()
    took = time.perf_counter() - began
    assert len(value) == BYTES
    assert value.endswith(block)
    return took


def main(what: str, folder: Path, port: int) -> None:
    """One of them, on a connection of its own."""
    _, *arguments, address, _ = sshd.client(folder, port, "")
    specification = f"ssh={shlex.join([*arguments, address])}//python={sys.executable}"
    gateway = execnet.makegateway(specification)
    print(json.dumps({"call": calls, "in": there, "out": back}[what](gateway)))
    gateway.exit()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
