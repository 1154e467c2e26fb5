"""Row `upload`: a large file over a short line, where the computer itself is the limit."""

from __future__ import annotations

from benchmarks import carrying
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """bring a file of 400 MB that nothing makes smaller to the machine, against scp with the same cipher on a connection that is there; best of 5 in turn"""
    return carrying.upload("upload", 400_000_000, "scp", 0.9, say)
