"""What the journal of a run says of its machine, once that has been kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly.stacks import journal, kept
from dayfly.stacks.journal import Event, History
from dayfly.stacks.standing import standing
from tests import runs

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


def _story(now: float) -> list[tuple[str, str, dict[str, Any]]]:
    """A call, and the next one on its machine: whose journal, which event, what it says. Every client in it is dead."""
    dead = runs.GONE
    intent = {"provider": "local", "client": dead, "deadline": now + 90000, "spec": {"hold": 300}}
    over = {"ended": now}
    return [
        (_A, "intent", intent),
        (_A, "launched", {"id": "i-1"}),
        (_A, "job_started", {}),
        (_A, "job_ended", over),
        (_A, "acknowledged", {}),
        (_A, "kept", {"until": now + 600}),
        (_A, "claimed", {"run": _B, "by": dead}),
        (_B, "intent", {**intent, "machine_of": _A}),
        (_B, "machine", {}),
        (_B, "job_started", {}),
        (_B, "job_ended", over),
        (_B, "acknowledged", {}),
        (_A, "kept", {"until": now + 900}),
        (_B, "closing", {"by": dead}),
        (_B, "closed", {}),
    ]


@pytest.mark.parametrize("written", range(1, 16))
def test_whatever_crashes_when_somebody_is_owed_the_end_of_the_machine(
    tmp_path: Path, written: int
) -> None:
    """And not before a result that waits there has been held as long as was promised."""
    now = time.time()
    for run, event, said in _story(now)[:written]:
        (tmp_path / run).mkdir(exist_ok=True)
        if event == "closed":
            (tmp_path / run / journal.RECEIPT).write_text(json.dumps({"run": run}))
        journal.append(tmp_path / run, event, **said)

    def status(run: str, at: float) -> str:
        return standing(journal.read(tmp_path / run), at)[0]

    # Of a run whose function may run the keeper looks after that.
    ends, guest = ["EXPIRED", "ORPHAN"], journal.read(tmp_path / _B)
    late = [status(run, now + 1000) for run in (_A, _B)]
    if written == 3 or (guest.started and guest.last("job_ended") is None):
        ends.append("HELD")
    assert late[0] in ends or (late[0] == "RUNNING" and late[1] in ends), late
    if guest.started and guest.last("acknowledged") is None:
        assert (status(_A, now), status(_B, now)) == ("RUNNING", "HELD")
    if written == 6 or written >= 13:
        assert status(_A, now) == "KEPT"
