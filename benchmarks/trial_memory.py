"""A client that sends a NumPy array and may get another: the most that it has had in memory, in bytes.

`python -m benchmarks.trial_memory in|both own|warm BYTES`
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import numpy
from numpy.typing import NDArray

from dayfly import cluster
from dayfly.runtime.cluster import RemoteFunction

_BYTES_OF_ONE = 8


@cluster(provider="local", environment=[f"numpy=={numpy.__version__}"])
def last(array: NDArray[numpy.float64]) -> float:
    """One in."""
    return float(array[-1])


@cluster(provider="local", environment=[f"numpy=={numpy.__version__}"])
def negated(array: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """One in, another out; made in place, since the machine is this computer and has to have room for it."""
    return numpy.negative(array, out=array)


def peak_bytes(kind: str, way: str, size: int) -> int:
    """What the client's memory came to, the interpreter and all its packages included."""
    function: RemoteFunction[[NDArray[numpy.float64]], Any] = last if kind == "in" else negated
    array = numpy.empty(size // _BYTES_OF_ONE)
    array[:] = 1.0
    array[-1] = 7.0
    if way == "own":
        value = function(array)
    else:
        with function.session() as s:
            value = s(array)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    # In place, or the comparison would need a third one.
    assert value == 7.0 if kind == "in" else numpy.array_equal(value[-9:], [-1.0] * 8 + [-7.0])
    return peak


if __name__ == "__main__":
    print(json.dumps(peak_bytes(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
