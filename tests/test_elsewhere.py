"""A run of another computer is found beside the state, or the message says why it cannot be."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError, EngineMissing, RunFailed, SpecError, UnknownRun
from dayfly.infra.providers.local import Local
from dayfly.infra.run import new_id
from dayfly.runtime import elsewhere, onlooker, outputs
from dayfly.runtime.attach import attach
from dayfly.runtime.context import Context
from dayfly.runtime.display import Display
from dayfly.runtime.records import Keys
from dayfly.stacks import journal
from dayfly.stacks.beside import Beside
from dayfly.stacks.journal import History
from dayfly.stacks.standing import standing
from dayfly.stacks.workspace import Workspace
from tests import homes, runs
from tests.test_hands import brought, held, here, there

__all__ = ["here", "there"]


def test_with_a_folder_for_its_state_an_unknown_run_is_told_where_it_could_be_attached(
    workspace: Workspace,
) -> None:
    """On its own computer only, and what would change that; other verbs say what they always did."""
    context = homes.context(workspace)
    with pytest.raises(UnknownRun, match=r"on the computer that started it.*s3://"):
        elsewhere.find(context, "abc", attaching=True)
    with pytest.raises(
        UnknownRun, match=r"no run begins with 'abc'; `dayfly ps --all` lists them$"
    ):
        elsewhere.find(context, "abc")


def test_a_run_of_this_computer_is_found_without_asking_anybody(here: Workspace) -> None:
    """There is no engine here that could be asked."""
    mine = held(here)
    assert elsewhere.find(homes.context(here), mine.id[:12]).id == mine.id


@pytest.mark.parametrize("name", ["", "../x", "a b"])
def test_what_is_no_id_is_asked_for_nowhere(here: Workspace, name: str) -> None:
    """It might lead anywhere."""
    with pytest.raises(UnknownRun, match="is not a run id"):
        elsewhere.find(homes.context(here), name, attaching=True)


def test_a_passphrase_that_is_not_here_is_not_made(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one would read nothing, and stand in the way of the right one."""
    with pytest.raises(ConfigurationError, match=r"copy it from DAYFLY_HOME.*awskms://"):
        elsewhere.find(homes.context(here), new_id(), attaching=True)
    assert not (here.home / "passphrase").exists()


def test_without_the_engine_it_says_how_to_get_it(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone reads the state."""
    assert here.passphrase_file
    monkeypatch.setattr(Context, "engine_or_none", lambda _: None)
    for name in ("abc", new_id()):
        with pytest.raises(EngineMissing, match="dayfly engine install"):
            elsewhere.find(homes.context(here), name, attaching=True)


def test_a_run_that_is_not_kept_may_be_over_or_of_another_kind(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason that there can be is named, and so is the backend."""
    assert here.passphrase_file
    monkeypatch.setattr(Beside, "runs", lambda _: ["a" * 32, "ab" * 16])
    with pytest.raises(UnknownRun, match=r"beside the state in s3://bucket: it is over"):
        elsewhere.find(homes.context(here), "c", attaching=True)
    with pytest.raises(UnknownRun, match="2 runs beside the state"):
        elsewhere.find(homes.context(here), "a", attaching=True)

    def gone(_beside: Beside, run_id: str) -> None:
        raise UnknownRun(run_id)

    monkeypatch.setattr(Beside, "fetch", gone)
    with pytest.raises(UnknownRun, match="it is over"):
        elsewhere.find(homes.context(here), "aa", attaching=True)


def test_its_directory_is_private_and_has_what_a_client_needs(
    here: Workspace, there: Workspace
) -> None:
    """Keys, journal, and the name of this home; brought twice it stays as it is."""
    mine = held(here)
    theirs = brought(mine, there)
    assert stat.S_IMODE(theirs.directory.stat().st_mode) == 0o700
    for file in theirs.directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert theirs.machine == mine.machine
    ours, keys = Keys.of(mine.directory), Keys.of(theirs.directory)
    assert keys.hmac_key == ours.hmac_key
    assert keys.user_key.read_bytes() == ours.user_key.read_bytes()
    assert (ours.home, keys.home) == (here.identity, there.identity)
    journal.append(theirs.directory, "attached", client=journal.myself())
    assert brought(mine, there).last("attached") is not None
    assert not list((there.home / "making").iterdir())


def test_of_two_commands_that_bring_a_run_at_once_one_makes_its_directory(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one finds it made, at whatever moment that was."""
    mine = held(here)
    append, first = journal.append, list[History]()

    def meanwhile(directory: Path, event: str, **fields: Any) -> None:
        append(directory, event, **fields)
        if not first:
            monkeypatch.setattr(journal, "append", append)
            first.append(brought(mine, there))
            append(first[0].directory, "attached", client=journal.myself())

    monkeypatch.setattr(journal, "append", meanwhile)
    assert brought(mine, there).last("attached") is not None
    assert not list((there.home / "making").iterdir())


def test_what_its_function_leaves_comes_to_its_directory_here(
    here: Workspace, there: Workspace
) -> None:
    """The folder that `outputs=` names is one of the other computer."""
    run_id = runs.opened(here)
    intent = journal.read(here.directory(run_id)).intent
    spec = {**intent["spec"], "outputs": "/there/only"}
    journal.append(here.directory(run_id), "intent", **{**intent, "spec": spec})
    mine = journal.read(here.directory(run_id))
    assert outputs.folder_of(mine) == Path("/there/only") / run_id[:12]
    theirs = brought(mine, there)
    assert outputs.folder_of(theirs) == theirs.directory / "outputs"


def test_what_another_computer_has_closed_is_over(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where the value is, and the keeper of this one closes it, too; what was brought just now is not asked for."""

    def gone(_beside: Beside, run_id: str) -> None:
        raise UnknownRun(run_id)

    monkeypatch.setattr(Beside, "fetch", gone)
    theirs = brought(held(here), there)
    elsewhere.check_open(homes.context(there), theirs)
    monkeypatch.setattr(elsewhere, "_FRESH_S", 0.0)
    with pytest.raises(RunFailed, match=r"is over.*dayfly result"):
        elsewhere.check_open(homes.context(there), theirs)
    assert standing(journal.read(theirs.directory), time.time())[0] == "ORPHAN"


def test_a_machine_that_lives_is_not_over_though_nothing_is_kept_of_it(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the backend can delete that; whose the run is, the machine tells."""

    def gone(_beside: Beside, run_id: str) -> None:
        raise UnknownRun(run_id)

    monkeypatch.setattr(Beside, "fetch", gone)
    monkeypatch.setattr(elsewhere, "_FRESH_S", 0.0)
    monkeypatch.setattr(Local, "instance_state", lambda *_: "running")
    theirs = brought(held(here), there)
    elsewhere.check_open(homes.context(there), theirs)
    assert journal.read(theirs.directory).last("attached") is None


def test_a_log_whose_secrets_are_not_known_here_is_not_watched(
    here: Workspace, there: Workspace
) -> None:
    """They could not be masked in it."""
    mine = held(here)
    spec = {**mine.intent["spec"], "secrets": ["DAYFLY_TEST_TOKEN"]}
    journal.append(mine.directory, "intent", **{**mine.intent, "spec": spec})
    theirs = brought(journal.read(mine.directory), there)
    shown: list[bytes] = []
    with pytest.raises(SpecError, match=r"DAYFLY_TEST_TOKEN.*dayfly logs -f"):
        onlooker.watch(theirs, lambda _, data: shown.append(data))
    assert shown == []


def test_who_could_not_destroy_a_machine_does_not_take_it(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is missing here; the run is left as it is."""
    theirs = brought(held(here), there)
    monkeypatch.setattr(Local, "preflight", lambda _: ["no key: export KEY"])
    monkeypatch.setattr(Context, "open", lambda: homes.context(there))
    with pytest.raises(ConfigurationError, match=r"could not destroy: no key: export KEY"):
        attach(theirs.id, Display.silent())
    assert journal.read(theirs.directory).last("attached") is None


def test_a_machine_that_is_another_computer_itself_is_attached_to_there(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address would lead to this one."""
    mine = held(here)
    far = {**journal.myself(), "host": "desk", "place": "x", "computer": {"id": "y", "macs": []}}
    journal.append(mine.directory, "intent", **{**mine.intent, "client": far})
    theirs = brought(journal.read(mine.directory), there)
    monkeypatch.setattr(Context, "open", lambda: homes.context(there))
    with pytest.raises(RunFailed, match="is the computer desk itself"):
        attach(theirs.id, Display.silent())
    assert journal.read(theirs.directory).last("attached") is None
