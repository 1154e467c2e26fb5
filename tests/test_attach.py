"""What `attach` refuses, and why, before it touches anything."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.errors import JobExited, LeakRisk, RunBusy, RunFailed, SpecError, UnknownRun
from dayfly.infra.run import new_id
from dayfly.runtime import ranks
from dayfly.runtime.attach import _replay, attach, stored_result
from dayfly.runtime.attend import Attendance
from dayfly.runtime.display import Display
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace
from tests.runs import GONE, closed, launched, opened


def a_run(workspace: Workspace, **intent: Any) -> journal.History:
    """An open run whose client is dead unless it is said to live."""
    directory = workspace.directory(new_id())
    directory.mkdir()
    journal.append(directory, "intent", provider="local", spec={"hold": 60}, deadline=9e9, **intent)
    return journal.read(directory)


def test_another_python_minor_unpickles_nothing(workspace: Workspace) -> None:
    """With the command that does."""
    run = a_run(workspace, python="3.99")
    (run.directory / "result.sealed").write_bytes(b"never read")
    for take in (lambda: attach(run.id, Display.silent()), lambda: stored_result(run)):
        with pytest.raises(RunFailed, match=r"python3\.99 -m dayfly"):
            take()


def test_a_run_whose_client_lives_is_busy(workspace: Workspace) -> None:
    """Its pid is named."""
    me = journal.myself()
    run = a_run(workspace, client=me)
    with pytest.raises(RunBusy, match=str(me["pid"])):
        attach(run.id, Display.silent())


def test_a_run_that_was_never_started_has_nothing_to_attach_to(workspace: Workspace) -> None:
    """And gets the command that ends it."""
    with pytest.raises(RunFailed, match="dayfly gc --run"):
        attach(a_run(workspace).id, Display.silent())


def test_a_standing_leak_risk_is_raised_again(workspace: Workspace) -> None:
    """Until its command has finished the teardown."""
    run = a_run(workspace)
    journal.append(run.directory, "leak_risk", reason="the API is down", id="x")
    with pytest.raises(LeakRisk, match="the API is down"):
        attach(run.id, Display.silent())


def test_a_run_whose_secrets_are_not_known_here_is_not_attached_to(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log could not be masked; the message has both ways on, and the run is left as it is."""
    run = a_run(workspace, client=GONE)
    spec = {"hold": 60, "secrets": ["DAYFLY_TEST_TOKEN"]}
    journal.append(run.directory, "intent", **run.intent | {"spec": spec})
    launched(workspace, run.id)
    with pytest.raises(SpecError, match=r"DAYFLY_TEST_TOKEN, not set here.*--no-log"):
        attach(run.id, Display.silent())
    assert journal.read(run.directory).last("attached") is None


def a_run_with_ranks(workspace: Workspace) -> Path:
    """Its directory, with what an earlier client had brought of two logs: in the middle of a line."""
    directory = workspace.directory(new_id())
    ranks.folder(directory, 1).mkdir(parents=True)
    journal.append(directory, "intent", spec={"nodes": 2, "distributed": "torchrun"})
    (directory / "stdout.log").write_bytes(b"first\nhal")
    (ranks.folder(directory, 1) / "stderr.log").write_bytes(b"another hal")
    return directory


def test_a_rank_s_last_line_is_shown_also_where_it_has_no_end(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing follows it any more."""
    _replay(a_run_with_ranks(workspace), Display.standard())
    assert capfd.readouterr() == ("[0] first\n[0] hal\n", "[1] another hal\n")


def test_a_rank_s_line_that_goes_on_is_shown_as_one(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half of it was brought by an earlier client."""
    directory, display = a_run_with_ranks(workspace), Display.standard()
    attendance = Attendance(display)
    attendance.run_stack = SimpleNamespace(directory=directory)  # type: ignore[assignment]
    _replay(directory, display, goes_on=True)
    with attendance._log_of(0) as (take, stdout, _):
        take("stdout", stdout, b"f\nlast")
    with attendance._log_of(1) as (take, _, stderr):
        take("stderr", stderr, b"f\n")
    assert capfd.readouterr() == ("[0] first\n[0] half\n[0] last\n", "[1] another half\n")
    assert (directory / "stdout.log").read_bytes() == b"first\nhalf\nlast"


def test_the_first_machine_s_log_of_a_map_is_shown_as_it_was(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a rank, since it has none, so that a line that goes on is one here, too."""
    directory = a_run_with_ranks(workspace)
    journal.append(directory, "intent", spec={"nodes": 2}, warm=True)
    _replay(directory, Display.standard(), goes_on=True)
    assert capfd.readouterr() == ("first\nhal", "")


def test_an_unknown_run_is_unknown() -> None:
    """With where to look."""
    with pytest.raises(UnknownRun, match="dayfly ps --all"):
        attach("abcdef", Display.silent())


def test_attaching_can_be_awaited(workspace: Workspace) -> None:
    """It refuses what it refuses without, and gives a job whose result is here already."""
    run_id = opened(workspace)
    launched(workspace, run_id)
    closed(workspace, run_id)
    directory = workspace.directory(run_id)
    ended = {"started": 1.0, "ended": 2.0, "signal": 0, "out_of_memory": False}
    journal.append(directory, "job_ended", how="exited", code=3, **ended)

    async def use() -> None:
        job = await attach.aio(run_id, Display.silent())
        with pytest.raises(JobExited, match="code 3"):
            await job
        with pytest.raises(UnknownRun):
            await attach.aio("abcdef", Display.silent())

    asyncio.run(use())


def test_the_outcome_of_a_run_whose_machine_is_kept_is_had_without_taking_it(
    workspace: Workspace,
) -> None:
    """It is on this computer, and the machine waits for the next call, or is used by it."""
    run_id = opened(workspace, alive=False)
    launched(workspace, run_id)
    directory = workspace.directory(run_id)
    ended = {"started": 1.0, "ended": 2.0, "signal": 0, "out_of_memory": False}
    journal.append(directory, "job_ended", how="exited", code=3, **ended)
    for event in ({"until": time.time() + 60}, {"run": "c" * 32}):
        journal.append(directory, "claimed" if "run" in event else "kept", **event)
        with pytest.raises(JobExited, match="code 3"):
            attach(run_id, Display.silent()).result(5)
        with pytest.raises(JobExited, match="code 3"):
            stored_result(journal.read(directory))
    assert journal.read(directory).last("attached") is None
