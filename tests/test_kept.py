"""What the journal of a run says of its machine, once that has been kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dayfly.stacks import kept
from dayfly.stacks.journal import Event, History

_A, _B, _C = "a" * 32, "b" * 32, "c" * 32
_KEPT: tuple[str, dict[str, Any]] = ("kept", {"until": 100.0, "after": _A})


def _claimed(run: str) -> tuple[str, dict[str, Any]]:
    return "claimed", {"run": run}


def _history(directory: Path, *events: tuple[str, dict[str, Any]]) -> History:
    return History(_A, directory, tuple(Event(name, 0.0, said) for name, said in events))


def test_a_run_that_was_never_kept_says_nothing(tmp_path: Path) -> None:
    """Its client counts, as it always has."""
    history = _history(tmp_path, ("intent", {}), ("attached", {}))
    assert kept.turn(history) is None
    assert (kept.until(history), kept.user(history), kept.is_kept(history)) == (None, "", False)


@pytest.mark.parametrize(
    ("events", "until", "user", "is_kept"),
    [
        ([_KEPT], 100.0, "", True),
        ([_KEPT, _claimed(_B)], None, _B, True),
        ([_KEPT, _claimed(_B), _KEPT], 100.0, "", True),
        ([_KEPT, ("cancelled", {})], None, "", False),
        ([_KEPT, _claimed(_B), ("closing", {})], None, "", False),
    ],
)
def test_the_latest_turn_counts(
    tmp_path: Path,
    events: list[tuple[str, dict[str, Any]]],
    until: float | None,
    user: str,
    is_kept: bool,
) -> None:
    """Waiting, taken, or at its end."""
    history = _history(tmp_path, *events)
    assert (kept.until(history), kept.user(history), kept.is_kept(history)) == (
        until,
        user,
        is_kept,
    )


@pytest.mark.parametrize(
    ("events", "has_left"),
    [
        ([_KEPT, _claimed(_B)], False),
        ([_KEPT, _claimed(_B), ("closing", {}), ("leak_risk", {})], False),
        ([_KEPT, _claimed(_B), _KEPT], True),
        ([_KEPT, _claimed(_B), _KEPT, _claimed(_C)], True),
        ([_KEPT], True),
    ],
)
def test_a_machine_is_its_user_s_until_it_is_handed_on(
    tmp_path: Path, events: list[tuple[str, dict[str, Any]]], has_left: bool
) -> None:
    """Also where a teardown has begun and was not proved."""
    assert kept.has_left(_history(tmp_path, *events), _B) is has_left
