"""Row `array_out`: a large array as the value of a warm call."""

from __future__ import annotations

from benchmarks import arrays
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """have a function of a warm run make a NumPy array of 100 MB and return it, against scp of as many bytes on a connection that is there, execnet and mitogen over ssh as they come, all on one server; best of 3 in turn"""
    return arrays.measure("array_out", "out", say)
