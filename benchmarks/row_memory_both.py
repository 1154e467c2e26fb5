"""Row `memory_both`: what a client has in memory while it sends a large array and gets another."""

from __future__ import annotations

from benchmarks import memory
from benchmarks.report import Row, Say

_ELSE = 200 << 20


def measure(say: Say) -> Row:
    """the most that a client has in memory which sends a NumPy array of 4 GiB (ARRAY_SIZE) and gets another, all of it included"""
    both = 2 * memory.size()
    return memory.measure(
        "memory_both",
        "both",
        say,
        arrays_bytes=both,
        most_bytes=1.15 * both + _ELSE,
        goal="< 1.15 x both arrays + 200 MiB",
    )
