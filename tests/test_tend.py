"""What is done about one run, and when to come back for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from dayfly.errors import ConnectFailed, RunBusy, RunFailed
from dayfly.infra.providers.base import Limits, Provider
from dayfly.infra.providers.local import Local
from dayfly.runtime import tend
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.journal import Event, History
from dayfly.stacks.run_lock import locked
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_census import local_replaced

__all__ = ["local_replaced"]
_HERE = journal.myself() | {"pid": 2**22 + 1}


def _left(workspace: Workspace, *, started: bool) -> History:
    """A run whose client was of this computer and is dead."""
    run_id = runs.opened(workspace)
    directory = workspace.directory(run_id)
    if started:
        runs.launched(workspace, run_id)
    journal.append(directory, "attached", client=_HERE)
    return journal.read(directory)


class _Slow(Local):
    """A provider whose lost launches come late."""

    limits = Limits(0.0, 900.0, 60.0, "it goes on", "a console")


def test_a_wait_of_minutes_is_left_to_the_keeper(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """An act that slept a quarter of an hour would take the place of another; nothing is closed before."""
    local_replaced(_Slow())
    history = _left(workspace, started=False)
    journal.append(history.directory, "up_started")
    again = tend.tend(Context.open(), history.id, lambda _: None)
    assert again is not None
    assert 50 < again - time.time() <= 60
    assert not journal.read(history.directory).closed
    with locked(history.directory, wait_s=0.0):
        pass


def test_a_run_in_hand_is_left_alone(workspace: Workspace) -> None:
    """The keeper looks at its client, and at nothing else."""
    assert tend.tend(Context.open(), runs.opened(workspace), lambda _: None) is None


def test_an_orphan_is_closed(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """And need not be looked at again."""
    history = _left(workspace, started=False)
    assert tend.main([history.id]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"next": None}
    assert "ORPHAN" in err
    assert journal.read(history.directory).closed


def test_what_was_brought_home_waits_for_the_end_of_its_hold(workspace: Workspace) -> None:
    """Without another word with the machine."""
    history = _left(workspace, started=True)
    now = time.time()
    journal.append(history.directory, "job_ended", how="finished", ended=now)
    journal.append(history.directory, "held", with_log=True)
    again = tend.tend(Context.open(), history.id, lambda _: None)
    assert again == pytest.approx(now + 3600)


def test_a_run_that_somebody_holds_is_busy(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code that the keeper takes for no failure."""
    monkeypatch.setattr(tend, "_BUSY_S", 0.0)
    history = _left(workspace, started=True)
    with locked(history.directory):
        assert tend.main([history.id]) == RunBusy.exit_code


def test_a_machine_that_is_gone_is_noted_and_one_that_lives_is_tried_again(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """Only the provider can tell the one from the other, also by knowing none of its id."""
    history = _left(workspace, started=True)
    trouble = ConnectFailed("no route")
    tend._unreachable(history, trouble, print)
    lost = journal.read(history.directory).last("instance_lost")
    assert lost is not None
    assert lost.fields["state"] == "terminated"
    history = _left(workspace, started=True)
    forgotten = Local()
    forgotten.instance_state = lambda id: "unknown"  # type: ignore[method-assign]
    forgotten.inventory = lambda owner: []  # type: ignore[method-assign]
    local_replaced(forgotten)
    tend._unreachable(history, trouble, print)
    assert journal.read(history.directory).field("instance_lost", "state") == "terminated"
    assert journal.read(history.directory).field("drift", "kind") == "deleted"
    history = _left(workspace, started=True)
    sick = Local()
    sick.instance_state = lambda id: "unhealthy"  # type: ignore[method-assign]
    local_replaced(sick)
    tend._unreachable(history, trouble, print)
    assert journal.read(history.directory).field("instance_lost", "state") == "unhealthy"
    history = _left(workspace, started=True)
    alive = Local()
    alive.instance_state = lambda id: "running"  # type: ignore[method-assign]  # the point
    local_replaced(alive)
    with pytest.raises(ConnectFailed):
        tend._unreachable(history, trouble, print)


def test_a_machine_whose_firewall_did_not_know_this_computer_is_tried_again_at_once(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """It is told of it, unless the call has said who may come."""
    moved = Local()
    moved.instance_state = lambda id: "running"  # type: ignore[method-assign]
    moved.admit = lambda id: f"{id} from 192.0.2.7/32"  # type: ignore[method-assign]
    local_replaced(moved)
    history = _left(workspace, started=True)
    trouble, said = ConnectFailed("no route"), list[str]()
    again = tend._unreachable(history, trouble, said.append)
    assert again - time.time() < 10
    assert "192.0.2.7/32" in said[0]
    found = journal.read(history.directory)
    assert found.field("admitted", "firewall") == "local-1 from 192.0.2.7/32"
    spec = {**history.intent["spec"], "allow_cidr": "203.0.113.7/32"}
    journal.append(history.directory, "intent", **{**history.intent, "spec": spec})
    with pytest.raises(ConnectFailed):
        tend._unreachable(journal.read(history.directory), trouble, said.append)
    assert len(said) == 1


def _history(workspace: Workspace, ago: float, now: float, lasts: float) -> History:
    events: list[tuple[str, dict[str, Any]]] = [
        ("intent", {"created": now - ago - 1, "deadline": now - ago - 1 + lasts}),
        ("job_started", {}),
    ]
    said = tuple(Event(name, now - ago, fields) for name, fields in events)
    return History("r", workspace.home, said)


@pytest.mark.parametrize(
    ("ago", "lasts", "wait"),
    [
        (1, 86400, 2),
        (200, 86400, 10),
        (36000, 86400, 60),
        # Two seconds before the function's own limit: just after it, and before the machine ends.
        (539, 601, 12.9),
        (600, 601, 30),
    ],
)
def test_the_longer_a_job_runs_the_later_it_is_looked_at(
    workspace: Workspace, ago: float, lasts: float, wait: float
) -> None:
    """But never past the moment when its function has been ended and its machine not yet."""
    now = 1e9
    found = tend._next_look(_history(workspace, ago, now, lasts), now) - now
    assert found == pytest.approx(wait, abs=0.2)


def test_a_start_that_never_came_is_waited_for_and_then_noted(workspace: Workspace) -> None:
    """The client may have died with the word under way."""
    history = _left(workspace, started=True)
    absent = RunFailed("absent")
    assert tend._never_started(history, absent) > time.time()
    old = History(
        history.id,
        history.directory,
        tuple(Event(e.name, e.time - 60, e.fields) for e in history.events),
    )
    tend._never_started(old, absent)
    assert journal.read(history.directory).last("never_started") is not None
