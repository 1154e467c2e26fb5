"""A stack is destroyed on every way out of its client: the end, an exception, a signal, two signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dayfly.errors import JobStopped
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.engine.client import Client, alive, dayfly, locks, wait_until_closed

pytestmark = pytest.mark.engine

_SEVERAL = """
import copyreg, json, pickle, sys
import dayfly

before = (pickle._Pickler.save_global, dict(pickle._Pickler.dispatch), dict(copyreg.dispatch_table))


@dayfly.cluster(provider="local", environment=[])
def double(number):
    return 2 * number


jobs = [double.submit(number) for number in range(3)]
values = [job.result() for job in jobs]
receipts = [job.receipt() for job in jobs]
print(json.dumps({
    "values": values,
    "pulumi": sorted(name for name in sys.modules if name.partition(".")[0] == "pulumi"),
    "untouched": before
    == (pickle._Pickler.save_global, dict(pickle._Pickler.dispatch), dict(copyreg.dispatch_table)),
    "receipts": [[r.destroyed, r.declared, r.left, r.how, r.notes] for r in receipts],
}))
"""


_SUBMITTED = """
import sys, time
from dayfly import cluster


@cluster(provider="local", environment=[])
def work(seconds):
    import time

    time.sleep(seconds)


jobs = [work.submit(float(sys.argv[1])) for _ in range(2)]
while not all(job.status() == "run" for job in jobs):
    time.sleep(0.05)
print("all run", flush=True)
time.sleep(600)
"""


def _stack(workspace: Workspace, engine: Engine) -> RunStack:
    spec = Spec.from_options({"provider": "local"})
    return RunStack(spec, workspace, engine, ladder(spec))


def _nothing_left(home: Path, run: str) -> None:
    assert alive(run) == []
    assert locks(home) == []
    assert (home / "runs" / run / "receipt.json").exists()


def test_the_callers_interpreter_never_sees_pulumi(clean_environment: Path, engine: Engine) -> None:
    """After several runs at once `pickle` is as it was, and each receipt says 2 of 2."""
    script = clean_environment / "several.py"
    script.write_text(_SEVERAL)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=clean_environment,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["values"] == [0, 2, 4]
    assert told["pulumi"] == []
    assert told["untouched"]
    assert told["receipts"] == [[2, 2, 0, "pulumi", []]] * 3
    assert json.loads(dayfly("ps", "--json").stdout) == []


def test_an_exception_in_the_body_destroys_the_stack_and_comes_through(
    workspace: Workspace, engine: Engine
) -> None:
    """Leaving is leaving; closing once more gives the same receipt."""
    stack = _stack(workspace, engine)
    with pytest.raises(ZeroDivisionError), stack as machine:
        assert machine.provider == "local"
        raise ZeroDivisionError
    assert stack.receipt is not None
    assert (stack.receipt.destroyed, stack.receipt.left) == (2, 0)
    assert stack.close() == stack.receipt
    _nothing_left(workspace.home, stack.id)


def test_cancelling_while_the_machine_comes_up_leaves_nothing(
    workspace: Workspace, engine: Engine
) -> None:
    """The create in flight is recorded, then destroyed."""
    stack = _stack(workspace, engine)

    def cancel_at_up(event: Event) -> None:
        if event.name == "up_started":
            stack.cancel()

    stack._observe = cancel_at_up
    with pytest.raises(JobStopped), stack:
        pytest.fail("the machine came up all the same")
    _nothing_left(workspace.home, stack.id)


@pytest.mark.parametrize(
    ("event", "number", "seconds"),
    [
        ("up_started", signal.SIGINT, 60),
        ("job_started", signal.SIGINT, 60),
        ("job_started", signal.SIGTERM, 60),
        ("closing", signal.SIGINT, 0),
    ],
)
def test_one_signal_destroys_and_proves_before_the_process_ends(
    clean_environment: Path,
    engine: Engine,
    event: str,
    number: signal.Signals,
    seconds: float,
) -> None:
    """Ctrl-C and SIGTERM, while creating, running and destroying."""
    with Client(clean_environment, seconds) as client:
        run = client.reach(event)
        client.signal(number)
        code = client.end()
    assert "interrupted" in client.said
    assert code == 130, client.said
    _nothing_left(clean_environment, run)


@pytest.mark.clients
@pytest.mark.parametrize("event", ["machine", "job_started"])
def test_a_second_ctrl_c_returns_and_the_keeper_finishes(
    clean_environment: Path, engine: Engine, event: str
) -> None:
    """Also what would be held, had nobody asked for its end; the command that finishes it by hand is printed."""
    with Client(clean_environment, 60) as client:
        run = client.reach(event)
        client.signal(signal.SIGINT)
        client.reach("closing")
        client.signal(signal.SIGINT)
        code = client.end()
    assert code == 130, client.said
    assert f"dayfly gc --run {run} --yes" in client.said
    wait_until_closed(clean_environment, run)
    _nothing_left(clean_environment, run)


@pytest.mark.clients
def test_a_second_ctrl_c_while_the_process_ends_is_not_a_success(
    clean_environment: Path, engine: Engine
) -> None:
    """The value is there, but nothing is proved yet: exit code 0 would say that it is."""
    with Client(clean_environment, 0) as client:
        run = client.reach("closing")
        client.signal(signal.SIGINT)
        client.hear("interrupted")
        client.signal(signal.SIGINT)
        code = client.end()
    assert code == 130, client.said
    assert f"dayfly gc --run {run} --yes" in client.said
    wait_until_closed(clean_environment, run)
    _nothing_left(clean_environment, run)


def test_a_ctrl_c_that_ends_the_program_stops_all_that_it_has_submitted(
    clean_environment: Path, engine: Engine
) -> None:
    """The program was not waiting for them; it would wait for hours now."""
    with Client(clean_environment, 600, _SUBMITTED) as client:
        client.hear("all run")
        client.signal(signal.SIGINT)
        code = client.end()
    assert code == 130, client.said
    runs = [entry.name for entry in (clean_environment / "runs").iterdir()]
    assert len(runs) == 2
    for run in runs:
        _nothing_left(clean_environment, run)
