"""What dead clients left is found wherever it still shows, and what is not theirs is never touched."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from dayfly.errors import DayflyError
from dayfly.infra import providers
from dayfly.infra.found import Found
from dayfly.infra.providers.base import Provider
from dayfly.infra.providers.local import Local
from dayfly.stacks import gc, journal
from dayfly.stacks.census import Finding, census, owned_by, survey
from dayfly.stacks.engine import Engine
from dayfly.stacks.standing import Status
from dayfly.stacks.workspace import Workspace
from tests import runs

_RUN = "b" * 32


def test_only_expired_and_orphaned_runs_are_doomed_and_held_ones_when_asked() -> None:
    """What lives, and what is being closed, never is."""
    every: tuple[Status, ...] = ("RUNNING", "CLOSING", "HELD", "EXPIRED", "ORPHAN")
    findings = [Finding(_RUN, status, "", "local") for status in every]
    assert [f.status for f in gc.doomed(findings)] == ["EXPIRED", "ORPHAN"]
    assert [f.status for f in gc.doomed(findings, held=True)] == ["HELD", "EXPIRED", "ORPHAN"]


def _tagged(owner: str, run: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
        env=os.environ | {"DAYFLY_RUN": run, "DAYFLY_OWNER": owner},
    )


def test_what_no_journal_knows_is_found_by_tag_and_ended(workspace: Workspace) -> None:
    """All state is lost, the tag is not; another owner's is never touched."""
    with _tagged(workspace.owner, _RUN) as ours, _tagged("someone-else", "c" * 32) as theirs:
        for process in (ours, theirs):
            assert process.stdout is not None
            process.stdout.readline()
        try:
            (finding,) = survey(workspace)
            assert (finding.run, finding.status, finding.history) == (_RUN, "ORPHAN", None)
            assert [found.id for found in finding.found] == [str(ours.pid)]
            assert gc.destroy(workspace, None, finding, lambda _: None) is None
            assert ours.wait(10) != 0
            assert theirs.poll() is None
            assert survey(workspace) == []
        finally:
            ours.kill()
            theirs.kill()


def test_a_directory_without_a_readable_journal_is_closed_by_tag(workspace: Workspace) -> None:
    """Cut or garbled: it is an orphan, and its receipt says so."""
    directory = workspace.directory(_RUN)
    directory.mkdir()
    (directory / journal.FILE).write_bytes(b"\xff\x00 no journal")
    (finding,) = survey(workspace)
    assert finding.status == "ORPHAN"
    receipt = gc.destroy(workspace, None, finding, lambda _: None)
    assert receipt is not None
    assert (receipt.left, receipt.notes) == (0, ("its journal had no readable intent",))
    assert json.loads((directory / journal.RECEIPT).read_text())["run"] == _RUN
    assert survey(workspace) == []


def test_a_census_knows_what_is_another_owner_s_and_leaves_it(workspace: Workspace) -> None:
    """It is listed, with its owner; only a request in so many words dooms it."""
    with _tagged("someone-else", _RUN) as theirs:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        try:
            found = census(workspace, None)
            (finding,) = [f for f in found.findings if f.run == _RUN]
            assert (finding.status, finding.owner) == ("FOREIGN", "someone-else")
            assert finding not in gc.doomed(found.findings, held=True)
            assert finding in gc.doomed(found.findings, foreign=True)
            assert owned_by(found, "someone-else").findings == (finding,)
            assert theirs.poll() is None
            lost = dataclasses.replace(workspace, owner="someone-else")
            (as_theirs,) = owned_by(census(lost, None), "someone-else").findings
            assert as_theirs.status == "ORPHAN"
            gc.destroy(lost, None, as_theirs, lambda _: None)
            assert theirs.wait(10) != 0
        finally:
            theirs.kill()


class _Broken(Local):
    """The API is down."""

    def inventory(self, owner: str | None) -> Sequence[Found]:
        raise ConnectionError("the API is down")


class _Crowded(Local):
    """An account with machines that are not ours."""

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return [Found("instance", "i-1"), Found("instance", "i-2")]


@pytest.fixture
def local_replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Provider], None]]:
    """Another provider under the name of the local one; the real one is back afterwards."""

    def replace(provider: Provider) -> None:
        module = sys.modules["dayfly.infra.providers.local"]
        monkeypatch.setattr(module, "PROVIDER", provider)
        providers.load.cache_clear()

    yield replace
    monkeypatch.undo()
    providers.load.cache_clear()


def test_a_listing_that_fails_is_told_and_concludes_nothing(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """A held run whose machine is not listed, because nothing is, is held."""
    run_id = runs.opened(workspace, alive=False)
    runs.launched(workspace, run_id)
    local_replaced(_Broken())
    found = census(workspace, None)
    assert "API is down" in found.failed["local"]
    assert [(f.run, f.status) for f in found.findings] == [(run_id, "HELD")]
    with pytest.raises(DayflyError, match="API is down"):
        survey(workspace)


def test_what_carries_no_tag_is_counted_and_nothing_more(
    workspace: Workspace, local_replaced: Callable[[Provider], None]
) -> None:
    """I8: nothing that is not tagged ours is ever touched."""
    local_replaced(_Crowded())
    found = census(workspace, None)
    assert (found.findings, dict(found.untagged)) == ((), {"local": 2})


@pytest.mark.engine
def test_a_stack_that_no_journal_knows_is_found_in_the_backend_and_closed(
    workspace: Workspace, engine: Engine
) -> None:
    """Its run's directory was deleted: the stack is what is left."""
    folder = workspace.home / "state/.pulumi/stacks/dayfly"
    folder.mkdir(parents=True)
    (folder / f"{_RUN}.json").write_text('{"version": 3, "checkpoint": {}}')
    (folder / "plain.json").write_text("{}")
    (finding,) = [f for f in census(workspace, engine).findings if f.status == "ORPHAN"]
    assert (finding.run, finding.provider, finding.found[0].kind) == (_RUN, "", "stack")
    receipt = gc.destroy(workspace, engine, finding, lambda _: None)
    assert receipt is not None
    assert receipt.left == 0
    assert not (folder / f"{_RUN}.json").exists()
    assert (folder / "plain.json").exists()


def test_a_run_is_closed_with_the_backend_that_it_was_launched_with(workspace: Workspace) -> None:
    """The project whose settings named it is not where the keeper works."""
    other = dataclasses.replace(workspace, backend=f"file://{workspace.home}/other", owner="me")
    history = journal.read(workspace.directory(runs.opened(other)))
    assert gc.as_launched(workspace, history) == other
