"""Machines that stay for the next call, with the real engine: taken from any process, ended on time, never trusted blindly."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import DayflyError
from dayfly.infra import processes
from dayfly.runtime.agent.processes import process_table
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from tests.engine.client import Client, alive, dayfly, wait_until_closed

pytestmark = [pytest.mark.engine, pytest.mark.sshd]

SCRIPT = """
import os, sys, time
from dayfly import cluster

@cluster(provider="local", environment=[], keep=sys.argv[1] + "s")
def where(x):
    return x + 1, os.environ["HOME"]

print("value", *where(1), flush=True)
time.sleep(600)
"""
FACTOR = 2


@cluster(provider="local", environment=[], keep="300s")
def scaled(x: int) -> tuple[int, str]:
    """A value by a global, and the machine that it was made on; leaves a process there that nothing marks as the run's."""
    bare = {"PATH": os.defpath}
    left = subprocess.Popen(["sleep", "600"], env=bare, start_new_session=True)
    Path(os.environ["HOME"], "left").write_text(str(left.pid))
    return x * FACTOR, os.environ["HOME"]


def test_the_next_call_has_the_same_machine_from_whichever_process(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each call is a run of its own, with the function as it is by then; one stack, one bill."""
    first = scaled.submit(1)
    value, home = first.result(300)
    assert (value, first.id in home) == (2, True)
    assert int(Path(home, "left").read_text()) not in process_table()
    monkeypatch.setattr("tests.engine.test_keep.FACTOR", 7)
    second = scaled.submit(1)
    assert second.result(300) == (7, home)
    receipt = second.receipt(timeout=60)
    assert (receipt.machine_of, receipt.destroyed, receipt.usd) == (first.id, 0, 0.0)
    assert alive(second.id) == []
    with pytest.raises(DayflyError, match="has no receipt yet: it is kept until"):
        first.receipt(timeout=60)
    with Client(clean_environment, 300, SCRIPT) as client:
        client.hear(f"value 2 {home}")
    assert f"dayfly gc --run {first.id[:12]} --yes" in capfd.readouterr().err
    assert "KEPT" in dayfly("ps").stdout
    done = dayfly("gc", "--run", first.id, "--yes")
    assert done.returncode == 0, done.stderr
    assert "destroyed 2 of 2" in done.stdout
    for run in (clean_environment / "runs").iterdir():
        wait_until_closed(clean_environment, run.name)


@pytest.mark.clients
def test_a_machine_that_nobody_comes_for_goes_on_time_also_when_its_client_is_gone(
    clean_environment: Path,
) -> None:
    """The keeper does it, by itself."""
    with Client(clean_environment, 2, SCRIPT) as client:
        client.hear("value 2")
        client.signal(signal.SIGKILL)
        client.end()
        run = client.run
    wait_until_closed(clean_environment, run)
    events = journal.read(clean_environment / "runs" / run).events
    names = [event.name for event in events]
    assert names.index("acknowledged") < names.index("kept") < names.index("closing")
    (kept,) = [event for event in events if event.name == "kept"]
    (closing,) = [event for event in events if event.name == "closing"]
    assert closing.time >= kept.fields["until"]


@pytest.mark.clients
def test_a_kept_machine_that_has_died_costs_the_call_nothing_but_time() -> None:
    """Kept because its call had failed; the next one gets another, which goes after a call that went well."""

    @cluster(provider="local", environment=[], keep="on-failure")
    def work(fails: bool) -> Any:
        if fails:
            raise ValueError("as asked for")
        return os.environ["HOME"]

    failed = work.submit(True)
    with pytest.raises(ValueError, match="as asked for"):
        failed.result(300)
    failed.wait_closed()
    workspace = Context.open().workspace
    assert journal.read(workspace.directory(failed.id)).field("kept", "failed") is True
    processes.end_run(failed.id)
    job = work.submit(False)
    home = job.result(300)
    assert failed.id not in home
    assert job.id in home
    assert job.receipt(timeout=120).destroyed == 2
    # The attempt on the dead one was a run, too, and is closed with it.
    for history in journal.histories(workspace.runs, closed=True):
        assert history.closed, history.id
    attempts = [h for h in journal.histories(workspace.runs, closed=True) if not h.started]
    assert [h.intent["machine_of"] for h in attempts] == [failed.id]
