"""Pieces: what is missing of a content, in parts that are carried one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def pieces_of(gaps: Iterable[Sequence[int]], most_bytes: int) -> Iterator[tuple[int, int]]:
    """Each gap, given as (start, end), in pieces of at most so many bytes, as (start, end)."""
    for start, end in gaps:
        for place in range(start, end, most_bytes):
            yield place, min(place + most_bytes, end)
