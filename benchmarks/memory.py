"""What the rows of a client's memory have in common: one large array there, another back, by a call of its own and by a session's."""

from __future__ import annotations

import os

from benchmarks import place
from benchmarks.report import Row, Say
from dayfly.infra.units import human_bytes, size_bytes

# `make bench ONLY=memory_in ARRAY_SIZE=256MB`: of each array.
_SIZE_VARIABLE, _SIZE = "ARRAY_SIZE", str(4 << 30)


def size() -> int:
    """Bytes of one array."""
    return size_bytes(os.environ.get(_SIZE_VARIABLE) or _SIZE, _SIZE_VARIABLE)


def measure(
    name: str, kind: str, say: Say, *, arrays_bytes: int, most_bytes: float, goal: str
) -> Row:
    """The row: the higher of the two peaks.

    Args:
        name: of the row.
        kind: "in" or "both".
        say: told what was measured.
        arrays_bytes: of all arrays together.
        most_bytes: what the client may have in memory at most.
        goal: the same in words.
    """
    peaks = []
    for way in ("own", "warm"):
        with place.new_home() as home:
            peaks.append(int(place.trial("trial_memory", home, kind, way, str(size()))))
        say(f"{way}: {human_bytes(peaks[-1])} for {human_bytes(arrays_bytes)} of arrays")
    return Row(name, max(peaks), "the arrays", arrays_bytes, "bytes", goal, max(peaks) < most_bytes)
