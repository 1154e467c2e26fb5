"""100 MB there or back through a call of mitogen over the system's ssh: seconds, from the call to its value.

`python -m benchmarks.trial_mitogen in|out FOLDER PORT`, the folder with the keys of the server
"""

import json
import operator
import os
import sys
import time
from pathlib import Path
from typing import Any

import mitogen.core
import mitogen.utils

from benchmarks import sshd
from benchmarks.peers import BLOCK_BYTES, BLOCKS, BYTES

# It writes bytes as text, half of them as two; and refuses what is larger than this.
_MESSAGE_BYTES_MOST = 4 * BYTES


def seconds(router: Any, kind: str, folder: Path, port: int) -> float:
    """What one call takes; connecting, and a first small call, come before."""
    router.max_message_size = _MESSAGE_BYTES_MOST
    _, *arguments, address, _ = sshd.client(folder, port, "")
    there = router.ssh(hostname=address, ssh_args=arguments, python_path=sys.executable)
    block = mitogen.core.Blob(os.urandom(BLOCK_BYTES))
    assert there.call(operator.getitem, block, -1) == block[-1]
    if kind == "in":
        sent = mitogen.core.Blob(block * BLOCKS)
        began = time.perf_counter()
        assert there.call(operator.getitem, sent, -1) == block[-1]
        return time.perf_counter() - began
    began = time.perf_counter()
    # The block goes along: a hundredth of what comes back.
    value = there.call(operator.mul, block, BLOCKS)
    took = time.perf_counter() - began
    assert len(value) == BYTES
    assert value.endswith(block)
    return took


if __name__ == "__main__":
    kind, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(mitogen.utils.run_with_router(seconds, kind, folder, port)))
