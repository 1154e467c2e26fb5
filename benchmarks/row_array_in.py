"""Row `array_in`: a large array as the argument of a warm call."""

from __future__ import annotations

from benchmarks import arrays
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """call a function of a warm run with a NumPy array of 100 MB, against scp of as many bytes on a connection that is there, execnet and mitogen over ssh as they come, all on one server; best of 3 in turn"""
    return arrays.measure("array_in", "in", say)
