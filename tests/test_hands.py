"""In whose hands a run is that several homes may have: the journal of each says what it knows, and acts by that."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.errors import BackendFailed, UnknownRun
from dayfly.infra.providers.local import Local
from dayfly.runtime import elsewhere
from dayfly.stacks import gc, hands, journal, vault
from dayfly.stacks.census import Finding, census, survey
from dayfly.stacks.closer import Closer
from dayfly.stacks.journal import History
from dayfly.stacks.standing import (
    in_other_home,
    is_elsewhere,
    is_lent,
    is_only_seen,
    standing,
    was_in_hand,
)
from dayfly.stacks.workspace import Workspace
from tests import homes, runs


@pytest.fixture
def here(workspace: Workspace) -> Workspace:
    """A home whose runs others may take in hand."""
    return homes.remote(workspace)


@pytest.fixture
def there(here: Workspace, tmp_path: Path) -> Workspace:
    """Another home."""
    return homes.another(tmp_path / "there", here)


def held(home: Workspace) -> History:
    """A run that was started there, whose function runs and whose client is gone."""
    run_id = runs.opened(home, alive=False)
    runs.launched(home, run_id)
    journal.append(home.directory(run_id), "session_keeping")
    journal.append(home.directory(run_id), "session_kept")
    return journal.read(home.directory(run_id))


def brought(history: History, home: Workspace) -> History:
    """The same run in another home, as it is made of what was kept."""
    files = {
        name: (history.directory / name).read_bytes()
        for name in vault.FILES
        if (history.directory / name).exists()
    }
    return elsewhere.bring(home, history.id, files)


def says(answer: Mapping[str, Any] | Exception | None) -> Any:
    """What is kept beside the state, as far as it is asked for whose the run is."""

    def hand(_directory: Path) -> Mapping[str, Any] | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(hand=hand)


def test_a_run_that_was_brought_here_is_left_in_the_hands_that_it_is_in(
    here: Workspace, there: Workspace
) -> None:
    """Although its client is a process of this very computer, and dead: of another home only that home judges."""
    mine = held(here)
    theirs = brought(mine, there)
    assert standing(mine, time.time())[0] == "HELD"
    status, why = standing(theirs, time.time())
    assert status == "RUNNING"
    assert f"dayfly attach {mine.id[:12]}" in why
    assert (in_other_home(mine), in_other_home(theirs)) == (False, True)
    assert is_elsewhere(theirs)
    assert not was_in_hand(theirs)
    assert standing(theirs, theirs.deadline + 1)[0] == "EXPIRED"


def test_a_client_of_another_home_is_not_asked_whether_it_lives(
    here: Workspace, there: Workspace
) -> None:
    """Its pid might be anybody's here."""
    run_id = runs.opened(here)
    runs.launched(here, run_id)
    mine = journal.read(here.directory(run_id))
    assert mine.client_alive()
    assert not brought(mine, there).client_alive()


def test_what_was_let_go_of_there_is_not_held_here(here: Workspace, there: Workspace) -> None:
    """The keeper that finishes it is the other home's."""
    mine = held(here)
    whose = journal.whose(mine.directory)
    journal.append(mine.directory, "detached", by=journal.myself(), wished=True, **whose)
    mine = journal.read(mine.directory)
    assert standing(mine, time.time())[0] == "HELD"
    assert standing(brought(mine, there), time.time())[0] == "RUNNING"


def test_who_has_been_taken_from_leaves_the_run_alone_and_looks_after_it_all_the_same(
    here: Workspace, there: Workspace
) -> None:
    """Its deadline is this home's to see to, too."""
    mine = held(here)
    assert not is_lent(mine, "HELD")
    hands.note(mine.directory, homes.hand(there))
    mine = journal.read(mine.directory)
    status, why = standing(mine, time.time())
    assert status == "RUNNING"
    assert "elsewhere.example" in why
    assert is_lent(mine, status)


@pytest.mark.parametrize("who", ["nobody", "here", "there"])
def test_the_machine_s_word_goes_above_the_journal(
    here: Workspace, there: Workspace, who: str
) -> None:
    """Where nobody has taken it, it is the first home's."""
    mine = held(here)
    theirs = brought(mine, there)
    said = {"nobody": None, "here": homes.hand(here), "there": homes.hand(there)}[who]
    assert hands.is_anothers(mine, said) == (who == "there")
    assert hands.is_anothers(theirs, said) == (who != "there")


def test_whether_another_home_may_have_it_is_asked_as_long_as_it_may(here: Workspace) -> None:
    """Not past its deadline, nor of a machine that is lost, nor again once no other home can take it."""
    mine = held(here)
    assert hands.may_be_anothers(mine)
    hands.settle(mine.directory)
    assert not hands.may_be_anothers(journal.read(mine.directory))
    lost = held(here)
    journal.append(lost.directory, "instance_lost", state="terminated")
    assert not hands.may_be_anothers(journal.read(lost.directory))


def test_a_run_whose_state_stays_here_is_never_another_home_s(workspace: Workspace) -> None:
    """Nothing of it is asked for, and no home has a name for that."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    history = journal.read(workspace.directory(run_id))
    assert "home" not in history.intent
    assert journal.whose(history.directory) == {}
    assert not hands.may_be_anothers(history)
    assert not (workspace.home / journal.IDENTITY).exists()


def test_what_is_kept_beside_the_state_tells_who_has_taken_it(
    here: Workspace, there: Workspace
) -> None:
    """It is written down; where nothing can be learnt the run is this home's."""
    mine = held(here)
    for answer in (None, homes.hand(here), BackendFailed("out of reach"), OSError("disk")):
        assert not hands.is_anothers_by_state(mine, says(answer))
    assert journal.read(mine.directory).last("attached") is None
    assert hands.is_anothers_by_state(mine, says(homes.hand(there)))
    mine = journal.read(mine.directory)
    assert standing(mine, time.time())[0] == "RUNNING"
    # The keeper asks every minute; the journal need not grow by that.
    assert hands.is_anothers_by_state(mine, says(homes.hand(there)))
    assert len(journal.read(mine.directory).events) == len(mine.events)


def test_what_another_home_has_closed_is_closed_here_and_not_billed_again(
    here: Workspace, there: Workspace
) -> None:
    """Nothing is kept of it any more, and nothing of it is left: its bill is where it was ended."""
    mine = held(here)
    assert not hands.is_anothers_by_state(mine, says(UnknownRun("gone")))
    mine = journal.read(mine.directory)
    status, why = standing(mine, time.time())
    assert (status, "has closed it" in why) == ("ORPHAN", True)
    receipt = Closer(here, None).close(mine.id)
    assert (receipt.usd, receipt.lived_s, receipt.left, receipt.destroyed) == (0.0, 0.0, 0, 0)
    assert any("has its bill" in note for note in receipt.notes)


def test_the_collector_spares_what_another_home_has_taken(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hold is over by this home's journal; where the state says nothing else, it goes."""
    mine = held(here)
    finding = Finding(mine.id, "EXPIRED", "", "local", history=mine)
    monkeypatch.setattr(
        "dayfly.stacks.beside.Beside.hand", lambda *_: homes.hand(there) | {"named": ""}
    )
    said: list[str] = []
    assert gc.destroy(here, None, finding, said.append) is None
    assert "taken in hand" in said[0]
    assert not journal.read(mine.directory).closed
    other = held(here)
    monkeypatch.setattr("dayfly.stacks.beside.Beside.hand", lambda *_: None)
    finding = Finding(other.id, "EXPIRED", "", "local", history=other)
    assert gc.destroy(here, None, finding, said.append) is not None
    assert journal.read(other.directory).closed


def test_the_collector_asks_nobody_about_what_is_written_down(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found before that, and the state is out of reach."""

    def away(*_: object) -> None:
        raise BackendFailed("out of reach")

    monkeypatch.setattr("dayfly.stacks.beside.Beside.hand", away)
    mine = held(here)
    finding = Finding(mine.id, "EXPIRED", "", "local", history=mine)
    hands.note(mine.directory, homes.hand(there))
    assert gc.destroy(here, None, finding, lambda _: None) is None
    assert not journal.read(mine.directory).closed


def test_a_run_that_is_held_after_all_is_spared_also_where_other_homes_might_have_it(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found EXPIRED for want of a machine, which is there; nobody has taken it."""
    monkeypatch.setattr("dayfly.stacks.beside.Beside.hand", lambda *_: None)
    monkeypatch.setattr(Local, "instance_state", lambda *_: "running")
    mine = held(here)
    finding = Finding(mine.id, "EXPIRED", "its machine has ended itself", "local", history=mine)
    assert gc.destroy(here, None, finding, lambda _: None) is None
    assert not journal.read(mine.directory).closed


def test_a_run_that_was_only_looked_at_asks_for_no_account_of_its_provider(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This home could not list what is there, and `dayfly gc` would find every listing incomplete for that."""
    mine = held(here)
    journal.append(mine.directory, "intent", **{**mine.intent, "provider": "lambda"})
    theirs = brought(journal.read(mine.directory), there)
    assert is_only_seen(theirs)
    found = census(there, None)
    assert "lambda" in found.unasked
    assert "lambda" not in found.failed
    assert [(finding.run, finding.status) for finding in survey(there)] == [(mine.id, "RUNNING")]
    client, whose = journal.myself(), journal.whose(theirs.directory)
    journal.append(theirs.directory, "attached", client=client, **whose)
    assert not is_only_seen(journal.read(theirs.directory))
    assert "lambda" in census(there, None).failed


def test_a_run_that_was_brought_is_closed_by_the_settings_of_this_computer(
    here: Workspace, there: Workspace
) -> None:
    """How it reaches the backend is its own; the owner in the tags is the one that it was launched with."""
    theirs = brought(held(here), there)
    launched_with = gc.as_launched(there, theirs)
    assert (launched_with.backend, launched_with.owner) == (there.backend, here.owner)
    # The keeper's acts have no settings but the user's own.
    bare = dataclasses.replace(there, backend="file:///somewhere", secrets_provider="awskms://x")
    assert gc.as_launched(bare, theirs).backend == there.backend
    assert gc.as_launched(bare, theirs).secrets_provider == there.secrets_provider
