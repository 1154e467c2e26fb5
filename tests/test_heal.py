"""The next command tells what dead clients left, and what the keeper could not do about it."""

from __future__ import annotations

from typing import Any

import pytest

from dayfly.errors import KeeperMissing
from dayfly.runtime import entrust
from dayfly.runtime.context import Context
from dayfly.runtime.heal import heal
from dayfly.stacks import journal
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace
from tests import runs

_DEAD = journal.myself() | {"pid": 2**22 + 1}


@pytest.fixture
def entrusted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the runs that were given into the keeper's care, and no keeper."""
    given: list[str] = []

    def take(_: Workspace, histories: list[History], *, own: bool) -> dict[str, Any]:
        assert not own
        given.extend(history.id for history in histories)
        return {}

    monkeypatch.setattr(entrust, "entrust", take)
    return given


def _left(workspace: Workspace) -> str:
    run_id = runs.opened(workspace)
    journal.append(workspace.directory(run_id), "attached", client=_DEAD)
    return run_id


def _told() -> list[str]:
    said: list[str] = []
    heal(Context.open(), said.append)
    return said


def test_every_open_run_is_entrusted_and_those_that_were_left_are_told(
    workspace: Workspace, entrusted: list[str]
) -> None:
    """A run whose client lives is nobody else's to talk about."""
    living, left = runs.opened(workspace), _left(workspace)
    (said,) = _told()
    assert f"run {left[:12]} is ORPHAN" in said
    assert "destroyed in the background" in said
    assert sorted(entrusted) == sorted([living, left])


def test_a_run_that_was_let_go_of_is_entrusted_and_no_news(
    workspace: Workspace, entrusted: list[str]
) -> None:
    """Until something about it is to be said."""
    run_id = runs.opened(workspace)
    directory = workspace.directory(run_id)
    runs.launched(workspace, run_id)
    journal.append(directory, "detached", by=journal.myself(), wished=True)
    assert _told() == []
    assert entrusted == [run_id]
    journal.append(directory, "cancelled", by=_DEAD)
    assert len(_told()) == 1


def test_without_open_runs_no_keeper_is_needed(
    workspace: Workspace, entrusted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dayfly ps` on an idle computer starts nothing."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(entrust, "entrust", never)
    assert _told() == []


def test_a_keeper_that_has_given_up_is_never_silent(
    workspace: Workspace, entrusted: list[str]
) -> None:
    """With its reason, and the command that does it by hand."""
    left = _left(workspace)
    directory = workspace.directory(left)
    journal.append(directory, "keeper_gave_up", message="the API is down", attempt=300, again=None)
    said = "\n".join(_told())
    assert "for 24 h and given up (the API is down)" in said
    assert f"dayfly gc --run {left[:12]} --yes" in said


def test_a_run_of_another_computer_s_client_is_left_to_its_keeper(
    workspace: Workspace, entrusted: list[str]
) -> None:
    """Whether that client lives cannot be seen from here."""
    run_id = runs.opened(workspace)
    elsewhere = journal.myself() | {
        "host": "node7",
        "place": "x",
        "computer": {"id": "y", "macs": []},
    }
    journal.append(workspace.directory(run_id), "attached", client=elsewhere)
    assert _told() == []


def test_a_keeper_that_cannot_start_is_told_of(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing stands in the way of the command."""

    def missing(*_: object, **__: object) -> None:
        raise KeeperMissing("no room")

    monkeypatch.setattr(entrust, "entrust", missing)
    runs.opened(workspace)
    assert _told() == ["the keeper is not there: no room"]
