"""Row `download_60ms`: a file over a long line, where what may be on its way at once is the limit."""

from __future__ import annotations

from benchmarks import carrying
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """bring a result of 60 MB here from a machine 60 ms away, against ssh cat on a connection that is there; best of 5 in turn"""
    return carrying.download("download_60ms", 60_000_000, "ssh cat", 4.0, say, round_trip_s=0.06)
