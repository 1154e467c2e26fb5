"""Row `small_files`: a tree of many small files over a line of some length, none of which is there yet."""

from __future__ import annotations

from benchmarks import tree
from benchmarks.report import Row, Say


def measure(say: Say) -> Row:
    """digest 2,000 files and bring their content to a machine 20 ms away, against rsync -a over ssh; best of 3 in turn"""
    return tree.measure("small_files", 0.6, say, again=False)
