"""What a run is, is told from its journal: who has it in hand, what it is owed, and when its time is over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dayfly.stacks import journal
from dayfly.stacks.journal import Event, History
from dayfly.stacks.standing import Status, hold_until, is_elsewhere, standing

_NOW = 1_000_000.0
_RUN = "b" * 32
_ELSEWHERE: dict[str, Any] = journal.myself() | {
    "host": "node7",
    "place": "another boot",
    "computer": {"id": "another id", "macs": []},
}
_DEAD: dict[str, Any] = {"pid": 2**22 + 1, "started": 1.0, "host": os.uname().nodename}

_LET_GO: tuple[str, dict[str, Any]] = ("detached", {"by": journal.myself(), "wished": True})


def _history(directory: Path, *events: tuple[str, dict[str, Any]]) -> History:
    return History(_RUN, directory, tuple(Event(name, _NOW - 100, said) for name, said in events))


def _intent(**said: Any) -> tuple[str, dict[str, Any]]:
    values = {"provider": "local", "deadline": _NOW + 1000, "client": _DEAD, "spec": {"hold": 300}}
    return "intent", values | said


def _kept_cases(alive: Any, me: dict[str, Any]) -> list[Any]:
    """That its own client lives is of no account any more."""
    said = {"until": _NOW + 60, "usd_per_hour": 1.29}
    now, over = ("kept", said), ("kept", {**said, "until": _NOW})
    ended = [("job_started", {}), ("job_ended", {"ended": _NOW - 200}), ("acknowledged", {})]
    mine, dead = (
        ("claimed", {"run": "c" * 32, "by": me}),
        ("claimed", {"run": "c" * 32, "by": _DEAD}),
    )
    return [
        ("KEPT", "$1.29/h; `dayfly gc --run", [alive, *ended, now]),
        ("KEPT", "since its call has failed", [_intent(), ("kept", {**said, "failed": True})]),
        ("EXPIRED", "as long as was asked for", [alive, *ended, over]),
        ("EXPIRED", "deadline", [_intent(client=me, deadline=_NOW), *ended, over]),
        ("ORPHAN", "was asked for", [alive, *ended, now, ("cancelled", {"by": me})]),
        ("CLOSING", "is destroying it", [alive, *ended, now, ("closing", {"by": me})]),
        ("ORPHAN", "had come back", [alive, *ended, now, ("closing", {"by": _DEAD})]),
        ("EXPIRED", "API is down", [alive, now, ("leak_risk", {"reason": "the API is down"})]),
        ("RUNNING", "run cccccccccccc is on its machine", [alive, *ended, now, mine]),
        ("ORPHAN", "run cccccccccccc, which had", [alive, *ended, now, dead]),
        ("KEPT", "kept until", [alive, *ended, over, dead, now]),
    ]


def _cases() -> list[Any]:
    me, ended = journal.myself(), {"ended": _NOW - 50}
    alive = _intent(client=me)
    return [
        ("RUNNING", "client is alive", [alive]),
        ("RUNNING", "client is alive", [alive, ("job_started", {})]),
        ("RUNNING", "client is alive", [_intent(client=me, deadline=_NOW - 299)]),
        ("EXPIRED", "deadline", [_intent(client=me, deadline=_NOW - 301)]),
        ("ORPHAN", "before the function", [_intent()]),
        ("ORPHAN", "before the function", [_intent(), ("machine", {}), ("connected", {})]),
        ("EXPIRED", "deadline", [_intent(deadline=_NOW)]),
        ("HELD", "dayfly attach", [_intent(), ("job_started", {})]),
        ("HELD", "dayfly attach", [_intent(), ("job_started", {}), ("job_ended", ended)]),
        (
            "EXPIRED",
            "held as long",
            [_intent(spec={"hold": 49}), ("job_started", {}), ("job_ended", ended)],
        ),
        ("EXPIRED", "held as long", [_intent(spec={}), ("job_started", {}), ("job_ended", ended)]),
        ("ORPHAN", "had come back", [_intent(), ("job_started", {}), ("acknowledged", {})]),
        (
            "RUNNING",
            "client is alive",
            [_intent(), ("job_started", {}), ("attached", {"client": me})],
        ),
        ("HELD", "dayfly attach", [alive, ("job_started", {}), ("attached", {"client": _DEAD})]),
        ("ORPHAN", "before the function", [alive, ("detached", {"by": me})]),
        ("HELD", "dayfly attach", [alive, ("job_started", {}), ("detached", {"by": me})]),
        (
            "ORPHAN",
            "was asked for",
            [alive, ("job_started", {}), ("cancelled", {}), ("detached", {"by": me})],
        ),
        (
            "HELD",
            "dayfly attach",
            [_intent(), ("job_started", {}), ("cancelled", {}), ("attached", {"client": _DEAD})],
        ),
        (
            "HELD",
            "is on this computer",
            [_intent(), ("job_started", {}), ("result_fetched", {}), ("held", {})],
        ),
        ("ORPHAN", "before the function", [_intent(), ("job_started", {}), ("never_started", {})]),
        (
            "EXPIRED",
            "preempted",
            [_intent(), ("job_started", {}), ("instance_lost", {"state": "preempted"})],
        ),
        ("HELD", "has let go of it", [alive, ("job_started", {}), _LET_GO]),
        (
            "EXPIRED",
            "what it left is on this computer",
            [alive, ("job_started", {}), _LET_GO, ("held", {"with_log": True})],
        ),
        (
            "HELD",
            "dayfly attach",
            [alive, ("job_started", {}), _LET_GO, ("held", {"with_log": False})],
        ),
        (
            "HELD",
            "its client is gone",
            [alive, ("job_started", {}), _LET_GO, ("attached", {"client": _DEAD})],
        ),
        (
            "ORPHAN",
            "was asked for",
            [alive, ("job_started", {}), _LET_GO, ("cancelled", {"by": me})],
        ),
        ("EXPIRED", "API is down", [alive, ("leak_risk", {"reason": "the API is down"})]),
        ("CLOSING", "is destroying it", [_intent(), ("closing", {"by": me})]),
        ("ORPHAN", "before the function", [_intent(), ("closing", {"by": _DEAD})]),
        ("RUNNING", "pulumi CLI as stack dev", [_intent(plain=True, stack="dev", client={})]),
        ("EXPIRED", "deadline", [_intent(plain=True, stack="dev", deadline=_NOW - 1)]),
        *_kept_cases(alive, me),
        ("ORPHAN", "no readable intent", []),
        ("ORPHAN", "no readable intent", [("launched", {})]),
    ]


@pytest.mark.parametrize(("status", "why", "events"), _cases())
def test_a_journal_tells_what_a_run_is(
    tmp_path: Path, status: Status, why: str, events: list[tuple[str, dict[str, Any]]]
) -> None:
    """Every standing that a run can have while it is open."""
    found, reason = standing(_history(tmp_path, *events), _NOW)
    assert (found, why in reason) == (status, True), reason


def test_a_machine_that_was_taken_is_that_run_s_until_it_is_closed(tmp_path: Path) -> None:
    """Whoever has taken it for that run; its own deadline, and the grace of whoever minds it, are the end of that."""
    machine, user = tmp_path / _RUN, tmp_path / ("c" * 32)
    user.mkdir()
    taken = ("claimed", {"run": user.name, "by": _DEAD})
    events = (_intent(deadline=_NOW + 10), ("kept", {"until": _NOW}), taken)
    history = _history(machine, *events)
    assert standing(history, _NOW)[0] == "RUNNING"
    assert standing(history, _NOW + 400)[0] == "EXPIRED"
    (user / journal.RECEIPT).write_text('{"run": "c"}')
    assert standing(history, _NOW)[0] == "ORPHAN"


def test_a_receipt_closes_whatever_the_journal_says(tmp_path: Path) -> None:
    """Absence was proved; nothing else counts."""
    (tmp_path / journal.RECEIPT).write_text('{"run": "b"}')
    assert standing(_history(tmp_path, _intent()), _NOW)[0] == "CLOSED"


def test_a_client_on_another_computer_is_not_taken_for_alive(tmp_path: Path) -> None:
    """A home on a shared disk: its pid says nothing here."""
    history = _history(tmp_path, _intent(client=_ELSEWHERE), ("job_started", {}))
    status, why = standing(history, _NOW)
    assert status == "RUNNING"
    assert "on another computer, node7" in why
    assert is_elsewhere(history)


def test_a_run_of_another_computer_that_is_overdue_is_anybody_s(tmp_path: Path) -> None:
    """Its machine is in a cloud; one that is a part of that computer can be judged there alone."""
    late = _intent(client=_ELSEWHERE, deadline=_NOW - 1)
    assert standing(_history(tmp_path, late), _NOW)[0] == "EXPIRED"
    late[1]["same_computer"] = True
    assert standing(_history(tmp_path, late), _NOW)[0] == "RUNNING"


def test_a_client_of_an_earlier_boot_is_dead(tmp_path: Path) -> None:
    """The computer is the same, by its id and its name or its network cards: nobody there can be waited for."""
    before = journal.myself() | {"place": "an earlier boot"}
    history = _history(tmp_path, _intent(client=before))
    assert not is_elsewhere(history)
    assert standing(history, _NOW)[0] == "ORPHAN"


def test_a_run_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    """And says what is in the way."""
    history = History(_RUN, tmp_path, (), "Permission denied: journal.jsonl")
    status, why = standing(history, _NOW)
    assert (status, "Permission denied" in why) == ("UNREADABLE", True)


def test_a_computer_that_was_renamed_keeps_its_clients_and_its_keeper(tmp_path: Path) -> None:
    """Laptops are renamed by each network that they come to; the boot is the same."""
    history = _history(tmp_path, _intent(client=journal.myself() | {"host": "old-name"}))
    assert standing(history, _NOW)[0] == "RUNNING"
    assert not is_elsewhere(history)


@pytest.mark.parametrize(
    ("lasts", "late", "status"),
    [(600, 59, "RUNNING"), (600, 61, "EXPIRED"), (60, 29, "RUNNING"), (60, 31, "EXPIRED")],
)
def test_a_living_client_s_grace_is_a_share_of_the_run_s_time(
    tmp_path: Path, lasts: float, late: float, status: Status
) -> None:
    """Five minutes more are nothing after a day, and half of the bill after ten minutes."""
    deadline = _NOW - late
    intent = _intent(client=journal.myself(), created=deadline - lasts, deadline=deadline)
    assert standing(_history(tmp_path, intent), _NOW)[0] == status


@pytest.mark.parametrize(
    ("hold", "deadline", "until"),
    [(300, _NOW + 1000, _NOW + 250), (9999, _NOW + 1000, _NOW + 1000), (0, _NOW + 1000, _NOW - 50)],
)
def test_a_result_is_held_from_the_end_of_the_job_and_never_past_the_deadline(
    tmp_path: Path, hold: float, deadline: float, until: float
) -> None:
    """The end is the machine's, not the moment at which it was journaled."""
    events = (_intent(spec={"hold": hold}, deadline=deadline), ("job_ended", {"ended": _NOW - 50}))
    assert hold_until(_history(tmp_path, *events)) == until


def test_a_job_that_still_runs_is_held_until_the_deadline(tmp_path: Path) -> None:
    """Its result may come at any time until then."""
    assert hold_until(_history(tmp_path, _intent())) == _NOW + 1000
