"""Row `download`: a large file over a short line, where the computer itself is the limit."""

from __future__ import annotations

from benchmarks import carrying
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """bring a result of 400 MB here, checked, against scp with the same cipher on a connection that is there; best of 5 in turn"""
    return carrying.download("download", 400_000_000, "scp", 0.9, say)
