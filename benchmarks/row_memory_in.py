"""Row `memory_in`: what a client has in memory while it sends a large array."""

from __future__ import annotations

from benchmarks import memory
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """the most that a client has in memory which calls a function with a NumPy array of 4 GiB (ARRAY_SIZE), all of it included"""
    size = memory.size()
    return memory.measure(
        "memory_in",
        "in",
        say,
        arrays_bytes=size,
        most_bytes=1.3 * size,
        goal="< 1.3 x the array",
    )
