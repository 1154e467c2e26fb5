"""What a run is, is told from its journal: who has it in hand, what it is owed, and when its time is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dayfly.stacks import gc, journal
from dayfly.stacks.gc import Finding, Status
from dayfly.stacks.journal import Event, History
from dayfly.stacks.workspace import Workspace

_NOW = 1_000_000.0
_RUN = "b" * 32
_DEAD: dict[str, Any] = {"pid": 2**22 + 1, "started": 1.0, "host": os.uname().nodename}


def _history(directory: Path, *events: tuple[str, dict[str, Any]]) -> History:
    return History(_RUN, directory, tuple(Event(name, _NOW - 100, said) for name, said in events))


def _intent(**said: Any) -> tuple[str, dict[str, Any]]:
    values = {"provider": "local", "deadline": _NOW + 1000, "client": _DEAD, "spec": {"hold": 300}}
    return "intent", values | said


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
        ("CLOSING", "is destroying it", [_intent(), ("closing", {"by": me})]),
        ("ORPHAN", "before the function", [_intent(), ("closing", {"by": _DEAD})]),
        ("RUNNING", "pulumi CLI as stack dev", [_intent(plain=True, stack="dev", client={})]),
        ("EXPIRED", "deadline", [_intent(plain=True, stack="dev", deadline=_NOW - 1)]),
        ("ORPHAN", "no readable intent", []),
        ("ORPHAN", "no readable intent", [("launched", {})]),
    ]


@pytest.mark.parametrize(("status", "why", "events"), _cases())
def test_a_journal_tells_what_a_run_is(
    tmp_path: Path, status: Status, why: str, events: list[tuple[str, dict[str, Any]]]
) -> None:
    """Every standing that a run can have while it is open."""
    found, reason = gc.standing(_history(tmp_path, *events), _NOW)
    assert (found, why in reason) == (status, True), reason


def test_a_receipt_closes_whatever_the_journal_says(tmp_path: Path) -> None:
    """Absence was proved; nothing else counts."""
    (tmp_path / journal.RECEIPT).write_text("{}")
    assert gc.standing(_history(tmp_path, _intent()), _NOW)[0] == "CLOSED"


def test_a_client_on_another_computer_is_not_taken_for_alive(tmp_path: Path) -> None:
    """A home on a shared disk: its pid says nothing here."""
    elsewhere = journal.myself() | {"host": "elsewhere"}
    assert gc.standing(_history(tmp_path, _intent(client=elsewhere)), _NOW)[0] == "ORPHAN"


@pytest.mark.parametrize(
    ("hold", "deadline", "until"),
    [(300, _NOW + 1000, _NOW + 250), (9999, _NOW + 1000, _NOW + 1000), (0, _NOW + 1000, _NOW - 50)],
)
def test_a_result_is_held_from_the_end_of_the_job_and_never_past_the_deadline(
    tmp_path: Path, hold: float, deadline: float, until: float
) -> None:
    """The end is the machine's, not the moment at which it was journaled."""
    events = (_intent(spec={"hold": hold}, deadline=deadline), ("job_ended", {"ended": _NOW - 50}))
    assert gc.hold_until(_history(tmp_path, *events)) == until


def test_a_job_that_still_runs_is_held_until_the_deadline(tmp_path: Path) -> None:
    """Its result may come at any time until then."""
    assert gc.hold_until(_history(tmp_path, _intent())) == _NOW + 1000


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
            (finding,) = gc.survey(workspace)
            assert (finding.run, finding.status, finding.history) == (_RUN, "ORPHAN", None)
            assert [found.id for found in finding.found] == [str(ours.pid)]
            assert gc.destroy(workspace, None, finding, lambda _: None) is None
            assert ours.wait(10) != 0
            assert theirs.poll() is None
            assert gc.survey(workspace) == []
        finally:
            ours.kill()
            theirs.kill()


def test_a_directory_without_a_readable_journal_is_closed_by_tag(workspace: Workspace) -> None:
    """Cut or garbled: it is an orphan, and its receipt says so."""
    directory = workspace.directory(_RUN)
    directory.mkdir()
    (directory / journal.FILE).write_bytes(b"\xff\x00 no journal")
    (finding,) = gc.survey(workspace)
    assert finding.status == "ORPHAN"
    receipt = gc.destroy(workspace, None, finding, lambda _: None)
    assert receipt is not None
    assert (receipt.left, receipt.notes) == (0, ("its journal had no readable intent",))
    assert json.loads((directory / journal.RECEIPT).read_text())["run"] == _RUN
    assert gc.survey(workspace) == []
