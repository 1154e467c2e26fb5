"""Durations and sizes for people."""

from __future__ import annotations

import pytest

from dayfly.infra.units import human_bytes, human_seconds, suggestion


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (0.84, "0.8 s"),
        (41, "41 s"),
        (185, "3 min 5 s"),
        (180, "3 min"),
        (7200, "2 h"),
        (86400 + 1800, "24 h 30 min"),
    ],
)
def test_a_duration_reads_as_people_say_it(span: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert human_seconds(span) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (1500, "1.5 KB"), (32e9, "32.0 GB"), (5e15, "5000.0 TB")]
)
def test_a_size_reads_as_clouds_print_it(count: float, text: str) -> None:
    """Decimal units."""
    assert human_bytes(count) == text


def test_an_unknown_name_gets_the_nearest_or_all() -> None:
    """A misspelling gets the nearest, nonsense gets the list."""
    assert suggestion("memry", ["memory", "cores"]) == "did you mean 'memory'?"
    assert suggestion("qqq", ["memory", "cores"]) == "known: cores, memory"
