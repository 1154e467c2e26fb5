"""What dead clients left is found wherever it still shows, and what is not theirs is never touched."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from dayfly.errors import LeakRisk
from dayfly.stacks import gc, journal
from dayfly.stacks.census import Finding, census, survey
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.standing import Status
from dayfly.stacks.workspace import Workspace
from tests import runs

_RUN = "b" * 32


def test_only_expired_and_orphaned_runs_are_doomed_and_held_ones_when_asked() -> None:
    """What lives, and what is being closed, never is."""
    every: tuple[Status, ...] = ("RUNNING", "CLOSING", "HELD", "KEPT", "EXPIRED", "ORPHAN")
    findings = [Finding(_RUN, status, "", "local") for status in every]
    assert [f.status for f in gc.doomed(findings)] == ["EXPIRED", "ORPHAN"]
    assert [f.status for f in gc.doomed(findings, held=True)] == ["HELD", "EXPIRED", "ORPHAN"]
    assert [f.status for f in gc.doomed(findings, kept=True)] == ["KEPT", "EXPIRED", "ORPHAN"]


def test_one_that_is_taken_in_hand_before_the_lock_is_had_is_left_alone(
    workspace: Workspace,
) -> None:
    """Whoever attached between the look and the lock has it."""
    run_id = runs.opened(workspace, alive=False)
    (finding,) = survey(workspace)
    assert finding.status == "ORPHAN"
    journal.append(workspace.directory(run_id), "attached", client=journal.myself())
    said: list[str] = []
    assert gc.destroy(workspace, None, finding, said.append) is None
    assert "taken in hand" in said[0]
    assert not journal.read(workspace.directory(run_id)).closed


def test_a_kept_machine_that_is_taken_before_the_lock_is_had_is_left_alone(
    workspace: Workspace,
) -> None:
    """A call has begun on it since it was found."""
    run_id, other = runs.opened(workspace), runs.opened(workspace)
    directory = workspace.directory(run_id)
    journal.append(directory, "kept", until=time.time() + 60)
    (finding,) = [f for f in survey(workspace) if f.run == run_id]
    assert finding.status == "KEPT"
    journal.append(directory, "claimed", run=other, by=runs.GONE)
    assert gc.destroy(workspace, None, finding, lambda _: None) is None
    assert not journal.read(directory).closed
    journal.append(directory, "kept", until=time.time() + 60)
    receipt = gc.destroy(workspace, None, finding, lambda _: None)
    assert receipt is not None
    assert receipt.left == 0


def test_a_part_of_another_computer_is_never_signed_for_here(workspace: Workspace) -> None:
    """Its processes cannot be listed from here: an empty listing proves nothing."""
    run_id = runs.opened(workspace)
    elsewhere = journal.myself() | {
        "host": "node7",
        "place": "x",
        "computer": {"id": "y", "macs": []},
    }
    directory = workspace.directory(run_id)
    journal.append(directory, "intent", **journal.read(directory).intent | {"client": elsewhere})
    with pytest.raises(LeakRisk, match="the computer node7"):
        Closer(workspace, None).close(run_id)


def test_a_plain_run_that_never_came_up_expires(workspace: Workspace) -> None:
    """`pulumi up` was killed, or failed, between the intent and the first request."""
    run_id = runs.opened(workspace, alive=False, plain=True, stack="dev")
    created = float(journal.read(workspace.directory(run_id)).intent["created"])
    (early,) = survey(workspace, created + 30)
    assert early.status == "RUNNING"
    (late,) = survey(workspace, created + 61)
    assert (late.status, late.why) == ("EXPIRED", "the pulumi CLI has not brought it up")


def tagged(owner: str, run: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
        env=os.environ | {"DAYFLY_RUN": run, "DAYFLY_OWNER": owner},
    )


def test_what_no_journal_knows_is_found_by_tag_and_ended(workspace: Workspace) -> None:
    """All state is lost, the tag is not; another owner's is never touched."""
    with tagged(workspace.owner, _RUN) as ours, tagged("someone-else", "c" * 32) as theirs:
        for process in (ours, theirs):
            assert process.stdout is not None
            process.stdout.readline()
        try:
            (finding,) = survey(workspace)
            assert (finding.run, finding.status, finding.history) == (_RUN, "ORPHAN", None)
            assert [found.id for found in finding.found] == [str(ours.pid)]
            receipt = gc.destroy(workspace, None, finding, lambda _: None)
            assert receipt is not None
            assert (receipt.run, receipt.left) == (_RUN, 0)
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
