"""Warm runs with the real engine: one stack for many calls, and it goes when its client does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dayfly import WarmCall, cluster
from dayfly.errors import DeadlineReached, JobStopped, ResultFailed, RunFailed
from dayfly.infra import providers
from dayfly.runtime import at_exit, show
from dayfly.runtime.attach import stored_result
from dayfly.runtime.context import Context
from dayfly.runtime.session import Session
from dayfly.stacks import journal
from tests.engine.client import Client, wait_until_closed

pytestmark = [pytest.mark.engine, pytest.mark.sshd]
remote = cluster(provider="local", environment=[], time="10m")


def test_one_run_serves_many_calls_and_is_proved_gone(capfd: pytest.CaptureFixture[str]) -> None:
    """Left by an exception it is proved gone too, and what ran is stopped; its story has the sums of its calls."""

    @remote
    def f(x: int) -> tuple[int, str]:
        if x < 0:
            time.sleep(600)
        print("on stdout", x)
        return x + 1, os.environ["DAYFLY_RUN"]

    pending: list[WarmCall[Any]] = []
    with pytest.raises(KeyError, match="mine"), f.session(slots=2) as s:
        assert s(1) == (2, s.id)
        assert list(s.map([2, 3])) == [(3, s.id), (4, s.id)]
        with pytest.raises(RunFailed, match="leave its"):
            s.receipt()
        pending.append(s.submit(-1))
        raise KeyError("mine")
    with pytest.raises(JobStopped):
        pending[0].result(60)
    with pytest.raises(RunFailed, match="takes no more calls"):
        s(1)
    receipt = s.receipt(timeout=120)
    assert (receipt.destroyed, receipt.declared, receipt.left, receipt.how) == (2, 2, 0, "pulumi")
    workspace = Context.open().workspace
    told = show.story(journal.read(workspace.directory(s.id)))
    # That which was stopped is one of them.
    assert (told["calls"]["calls"], told["calls"]["without_value"]) == (4, 1)
    assert "made" in dict(dict(show.paragraphs(told))["calls"])
    assert "[1] on stdout 1\n" in capfd.readouterr().out
    assert list(providers.load("local").inventory(workspace.owner)) == []


def test_values_of_a_function_come_as_they_are_there_and_the_machine_goes_behind_them() -> None:
    """Nothing is made before the first is asked for; where the values are left early, the rest is stopped."""

    @remote
    def f(x: float) -> float:
        time.sleep(x)
        return x

    workspace = Context.open().workspace
    values = f.map_unordered([0.0, 600.0])
    assert not list(workspace.runs.iterdir())
    assert next(values) == 0.0
    values.close()
    assert sorted(f.map_unordered([1.0, 0.0, 0.5])) == [0.0, 0.5, 1.0]
    for job in list(at_exit.open_jobs):
        job.wait_closed()
    assert len(list(workspace.runs.iterdir())) == 2
    assert list(providers.load("local").inventory(workspace.owner)) == []


@pytest.mark.parametrize(
    ("ending", "code"), [("raise KeyError('mine')", 1), ("raise KeyboardInterrupt", -signal.SIGINT)]
)
def test_a_program_that_fails_does_not_wait_for_what_it_has_left_open(
    clean_environment: Path, tmp_path: Path, ending: str, code: int
) -> None:
    """The value that it had not asked for yet would have come in ten minutes."""
    script = tmp_path / "client.py"
    script.write_text(
        "import time\nfrom dayfly import cluster\n"
        "@cluster(provider='local', environment=[])\n"
        "def f(x):\n    time.sleep(x)\n    return x\n\n"
        f"values = f.map_unordered([0, 600])\nprint(next(values), flush=True)\n{ending}\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (code, "0\n"), done.stderr
    (history,) = journal.histories(clean_environment / "runs", closed=True)
    assert history.closed


@pytest.mark.clients
@pytest.mark.long
def test_a_session_that_reaches_its_deadline_says_so() -> None:
    """To the call that runs, to the one that waits, to the next one, and where its block is left."""
    f = cluster(provider="local", environment=[], time=15)(time.sleep)
    with pytest.raises(DeadlineReached, match="max_runtime"), f.session(slots=1) as s:
        assert s(0) is None
        for call in [s.submit(600), s.submit(600)]:
            with pytest.raises(DeadlineReached, match="max_runtime"):
                call.result(120)
        with pytest.raises(DeadlineReached, match="max_runtime"):
            s(0)
    assert s.receipt(timeout=120).left == 0


@pytest.mark.clients
@pytest.mark.long
def test_what_has_come_of_a_map_by_its_deadline_is_not_lost() -> None:
    """The deadline stands in the place of what had not come."""
    f = cluster(provider="local", environment=[], time=15)(time.sleep)
    values: list[Any] = f.map([0, 0, 600, 600], slots=1, return_exceptions=True)
    assert values[:2] == [None, None]
    assert [type(value) for value in values[2:]] == [DeadlineReached] * 2


SCRIPT = """
import asyncio, sys
from dayfly import cluster

@cluster(provider="local", environment=[])
def work(x):
    return x + 1

async def main():
    print(await work.map.aio(range(3)), flush=True)
    async with work.session(linger=0.5) as s:
        print("value", await s.aio(1), flush=True)
        await asyncio.sleep(float(sys.argv[1]))

asyncio.run(main())
"""


@pytest.mark.clients
def test_a_session_whose_client_is_killed_is_destroyed_on_time(clean_environment: Path) -> None:
    """Though nobody comes for it, it is not held: there is nothing on its machine that its client has not got. (This client
    does all of it in an event loop.)"""
    with Client(clean_environment, 600, SCRIPT) as client:
        client.hear("value 2")
        assert "[1, 2, 3]" in client.said
        runs = {path.name for path in (clean_environment / "runs").iterdir()}
        (run,) = [name for name in runs if "result" not in _events(clean_environment, name)]
        client.signal(signal.SIGKILL)
        client.end()
    wait_until_closed(clean_environment, run)
    events = _events(clean_environment, run)
    assert events.index("job_ended") < events.index("acknowledged") < events.index("closed")


def test_a_session_that_nobody_calls_ends_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """As one in a notebook that was left open; the plan says so before it is paid for, and the next call what has happened."""
    with remote(abs).session(slots=1, idle=2) as s:
        assert s(-1) == 1
        (job,) = at_exit.open_jobs
        job.wait_closed()
        with pytest.raises(RunFailed, match=r"nothing to do for 2\.0 s, the time of idle="):
            s(-1)
    assert s.receipt(timeout=120).left == 0
    assert re.search(r"idle +the run ends after 2\.0 s without a call", capfd.readouterr().err)


@pytest.mark.clients
def test_a_long_outage_leaves_a_session_up_and_what_it_computes_comes_home(
    clean_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a plain call: nobody has asked for its end. Here the machine's own SSH server does not answer any more."""
    assert Session.__init__.__kwdefaults__
    monkeypatch.setitem(Session.__init__.__kwdefaults__, "give_up_s", 3.0)
    monkeypatch.setattr("dayfly.runtime.session._RECONNECT_S", 1.0)

    @remote
    def f(begun: Path, go: Path) -> int:
        begun.touch()
        while not go.exists():
            time.sleep(0.02)
        return 7

    begun, go = tmp_path / "begun", tmp_path / "go"
    with pytest.raises(ResultFailed, match="Its machine is still up"), f.session(linger=0.5) as s:
        call = s.submit(begun, go)
        while not begun.exists():
            time.sleep(0.02)
        (guardian,) = [
            psutil.Process(int(found.id))
            for found in providers.load("local").inventory(None)
            if found.run == s.id and found.kind == "instance"
        ]
        guardian.suspend()
        try:
            for server in guardian.children():
                if "sshd" in server.name():
                    server.kill()
            with pytest.raises(ResultFailed, match=f"dayfly result {s.id[:12]}"):
                call.result(60)
        finally:
            guardian.resume()
        s(begun, go)
    events = _events(clean_environment, s.id)
    assert "detached" in events
    assert not {"cancelled", "closing"} & set(events)
    go.touch()
    wait_until_closed(clean_environment, s.id)
    assert list(stored_result(journal.read(s.directory)).values()) == [7]


def _events(home: Path, run: str) -> list[str]:
    return [event.name for event in journal.read(home / "runs" / run).events]
