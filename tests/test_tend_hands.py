"""What the keeper does about a run that another home may have in hand: it asks, writes down the answer, and lets be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.errors import BackendFailed, ConnectFailed, InstanceLost, TakenOver, UnknownRun
from dayfly.infra.providers.base import Provider
from dayfly.infra.providers.local import Local
from dayfly.runtime import tend
from dayfly.runtime.ward import Ward
from dayfly.stacks import hands, journal
from dayfly.stacks.beside import Beside
from dayfly.stacks.journal import History
from dayfly.stacks.standing import standing
from dayfly.stacks.workspace import Workspace
from tests import homes
from tests.test_census import local_replaced
from tests.test_hands import brought, held, here, there

__all__ = ["here", "local_replaced", "there"]


def _says(hand: Any) -> Any:
    def answer() -> Any:
        if isinstance(hand, Exception):
            raise hand
        return hand

    return SimpleNamespace(hand=answer)


def _status(history: History) -> str:
    return standing(journal.read(history.directory), time.time())[0]


def _silent(_text: str) -> None:
    return


def test_what_the_machine_says_is_another_s_is_left_to_it(
    here: Workspace, there: Workspace
) -> None:
    """With its client, so that people know where to look."""
    mine = held(here)
    tend._check_hand(mine, _says(None), _silent)
    tend._check_hand(mine, _says(homes.hand(here)), _silent)
    assert _status(mine) == "HELD"
    with pytest.raises(TakenOver):
        tend._check_hand(mine, _says(homes.hand(there)), _silent)
    assert _status(mine) == "RUNNING"
    assert journal.read(mine.directory).field("attached", "client")["host"] == "elsewhere.example"


def test_a_client_that_died_before_it_had_taken_a_run_has_not_taken_it(
    here: Workspace, there: Workspace
) -> None:
    """Its journal says that it had; the machine, that nobody has."""
    theirs = brought(held(here), there)
    dead = journal.myself() | {"pid": 2**22 + 1}
    journal.append(theirs.directory, "attached", client=dead, **journal.whose(theirs.directory))
    theirs = journal.read(theirs.directory)
    assert _status(theirs) == "HELD"
    with pytest.raises(TakenOver):
        tend._check_hand(theirs, _says(None), _silent)
    assert _status(theirs) == "RUNNING"


def test_a_machine_that_does_not_say_has_said_nothing(here: Workspace, there: Workspace) -> None:
    """Else a run would be given away for a line that broke."""
    theirs = brought(held(here), there)
    with pytest.raises(ConnectFailed, match="does not say"):
        tend._check_hand(theirs, _says(InstanceLost("no route")), _silent)
    assert journal.read(theirs.directory).last("attached") is None


def test_a_run_that_is_taken_meanwhile_counts_as_started(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orphan would be destroyed."""

    def taken(*_: object) -> float:
        raise TakenOver("another computer has it in hand")

    monkeypatch.setattr(tend, "_fetched", taken)
    mine = held(here)
    assert tend.tend(homes.context(here), mine.id, _silent) == pytest.approx(time.time(), abs=30)
    assert journal.read(mine.directory).last("never_started") is None


@pytest.mark.parametrize(
    ("kept", "status"),
    [(UnknownRun("gone"), "ORPHAN"), (BackendFailed("out of reach"), "RUNNING"), (None, "RUNNING")],
)
def test_a_lent_run_is_looked_after_until_it_is_closed(
    here: Workspace,
    there: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    kept: Exception | None,
    status: str,
) -> None:
    """Its machine is gone, and nothing of it is kept any more: then it is closed here as well."""
    mine = held(here)
    hands.note(mine.directory, homes.hand(there))

    def hand(_beside: Beside, _directory: Path) -> Any:
        if kept is not None:
            raise kept
        return homes.hand(there)

    monkeypatch.setattr(Beside, "hand", hand)
    again = tend.tend(homes.context(here), mine.id, _silent)
    assert again == pytest.approx(time.time() + 60, abs=30)
    assert _status(mine) == status


def test_a_lent_run_whose_machine_lives_costs_no_engine(
    here: Workspace,
    there: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    local_replaced: Callable[[Provider], None],
) -> None:
    """Its provider is asked, and that is all."""
    alive = Local()
    alive.instance_state = lambda id: "running"  # type: ignore[method-assign]
    local_replaced(alive)
    mine = held(here)
    hands.note(mine.directory, homes.hand(there))
    asked: list[Path] = []
    monkeypatch.setattr(Beside, "hand", lambda _, directory: asked.append(directory))
    tend.tend(homes.context(here), mine.id, _silent)
    assert asked == []
    assert _status(mine) == "RUNNING"


def test_the_keeper_stays_for_what_it_has_lent_and_not_for_what_it_only_looked_at(
    here: Workspace, there: Workspace
) -> None:
    """The deadline of the one is its own to see to."""
    mine = held(here)
    theirs = brought(mine, there)
    hands.note(mine.directory, homes.hand(there))
    now = time.time()
    assert Ward(mine.directory).needs_keeper(now)
    assert Ward(mine.directory).is_due(now)
    assert not Ward(theirs.directory).needs_keeper(now)
    assert not Ward(theirs.directory).is_due(now)
