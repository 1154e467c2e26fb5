"""Clients die and nobody types a command: the keeper destroys what is owed to no one, and holds what is owed to someone."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from dayfly.runtime import tend
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from tests import keepers
from tests.engine.client import WAIT_S, Client, alive, dayfly, locks, wait_until_closed

pytestmark = [pytest.mark.engine, pytest.mark.sshd]
_BRIEFLY_HELD = """
import os, sys
from dayfly import cluster


@cluster(provider="local", environment=[], hold="8s", secrets=["TEST_TOKEN"])
def work(value, flag):
    import os, time

    print("begun with", os.environ["TEST_TOKEN"], flush=True)
    with open(os.environ["DAYFLY_OUTPUT_DIR"] + "/note", "w") as note:
        note.write("left behind")
    while not os.path.exists(flag):
        time.sleep(0.02)
    if value == 2.5:
        os._exit(3)
    return [value] * 3


print("value", work(float(sys.argv[1]), os.path.abspath("flag")), flush=True)
"""


def _let_end(home: Path) -> None:
    """The function that is briefly held ends, which it does when its client is gone."""
    (home / "flag").touch()


def _wait_for_event(home: Path, run: str, name: str) -> journal.Event:
    until = time.monotonic() + WAIT_S
    while (found := journal.read(home / "runs" / run).last(name)) is None:
        assert time.monotonic() < until, (home / "runs" / run / "keeper.log").read_text()
        time.sleep(0.05)
    return found


@pytest.mark.clients
@pytest.mark.parametrize("event", ["up_started", "connected"])
def test_a_client_killed_before_the_start_leaves_nothing_and_nobody_types_a_command(
    clean_environment: Path, engine: Engine, event: str
) -> None:
    """A create in flight is let finish and adopted; the keeper that the client started sees to it, and ends."""
    with Client(clean_environment, 60) as client:
        run = client.reach(event)
        client.signal(signal.SIGKILL)
        client.end()
    wait_until_closed(clean_environment, run)
    history = journal.read(clean_environment / "runs" / run)
    receipt = json.loads((history.directory / journal.RECEIPT).read_text())
    assert (receipt["left"], receipt["how"]) == (0, "pulumi")
    assert locks(clean_environment) == []
    keeper = keepers.process(clean_environment)
    if keeper is not None:
        assert keeper.pid == history.intent["keeper"]["pid"]
        keepers.wait(keeper)


@pytest.mark.long
def test_a_result_comes_home_without_its_client_and_is_there_after_its_machine(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched when the function ends, its machine destroyed at the end of the hold; log and value as if nothing had been,
    and the secret in it masked by what only the dead client had."""
    monkeypatch.setenv("TEST_TOKEN", "correct-horse")
    with Client(clean_environment, 3, _BRIEFLY_HELD) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.signal(signal.SIGKILL)
        client.end()
    _let_end(clean_environment)
    monkeypatch.delenv("TEST_TOKEN")
    assert _wait_for_event(clean_environment, run, "held").fields["with_log"]
    assert (clean_environment / "runs" / run / "outputs" / "note").read_text() == "left behind"
    assert alive(run), "held means that its machine is up"
    assert dayfly("result", run).stdout == "[3.0, 3.0, 3.0]\n"
    wait_until_closed(clean_environment, run)
    history = journal.read(clean_environment / "runs" / run)
    closing, ended = history.last("closing"), history.field("job_ended", "ended")
    assert closing is not None
    assert closing.time >= ended + 8
    attached = dayfly("attach", run)
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout == f"begun with {'*' * 13}\n[3.0, 3.0, 3.0]\n"
    for file in clean_environment.rglob("*"):
        assert not file.is_file() or b"correct-horse" not in file.read_bytes(), file


def test_an_attach_during_the_hold_ends_it(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the value has no use for the machine."""
    monkeypatch.setenv("TEST_TOKEN", "correct-horse")
    with Client(clean_environment, 2, _BRIEFLY_HELD.replace("8s", "1h")) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.signal(signal.SIGKILL)
        client.end()
    _let_end(clean_environment)
    _wait_for_event(clean_environment, run, "held")
    attached = dayfly("attach", run)
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout == f"begun with {'*' * 13}\n[2.0, 2.0, 2.0]\n"
    wait_until_closed(clean_environment, run)


def test_a_failure_is_a_result_too(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How the function ended without a value is told long after its machine is gone, with its exit code."""
    monkeypatch.setenv("TEST_TOKEN", "correct-horse")
    with Client(clean_environment, 2.5, _BRIEFLY_HELD.replace("8s", "1s")) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.signal(signal.SIGKILL)
        client.end()
    _let_end(clean_environment)
    wait_until_closed(clean_environment, run)
    for verb in ("attach", "result"):
        told = dayfly(verb, run)
        assert told.returncode == 3, told.stderr
        assert "exited with code 3" in told.stderr


@pytest.mark.clients
def test_a_log_whose_secrets_the_keeper_does_not_know_stays_on_the_machine(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper was killed and its successor was never told: the result comes, the secret does not."""
    monkeypatch.setenv("TEST_TOKEN", "correct-horse")
    with Client(clean_environment, 4, _BRIEFLY_HELD.replace("8s", "1h")) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.die_unkept()
    _let_end(clean_environment)
    monkeypatch.delenv("TEST_TOKEN")
    assert "HELD" in dayfly("ps").stdout
    assert not _wait_for_event(clean_environment, run, "held").fields["with_log"]
    for file in clean_environment.rglob("*"):
        inside = "machine" in file.relative_to(clean_environment).parts
        assert inside or not file.is_file() or b"correct-horse" not in file.read_bytes(), file
    attached = dayfly("attach", run, TEST_TOKEN="correct-horse")
    assert attached.stdout == f"begun with {'*' * 13}\n[4.0, 4.0, 4.0]\n", attached.stderr
    wait_until_closed(clean_environment, run)


@pytest.mark.clients
def test_a_keeper_killed_under_a_running_function_is_replaced_by_its_client(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours may pass before the client dies too; then the new keeper brings the result home, its secret masked, and ends
    the machine, and nobody types a command."""
    monkeypatch.setenv("TEST_TOKEN", "correct-horse")
    soon = "from dayfly.runtime import session\nsession._MEANWHILE_S = 0.2\n"
    with Client(clean_environment, 6, soon + _BRIEFLY_HELD.replace("8s", "1s")) as client:
        run = client.reach("job_started")
        client.hear("begun")
        former = keepers.started(clean_environment)
        former.kill()
        keepers.wait(former)
        assert keepers.started(clean_environment).pid != former.pid
        monkeypatch.delenv("TEST_TOKEN")
        until = time.monotonic() + WAIT_S
        while "TEST_TOKEN" not in dayfly("keeper", "status", "--json").stdout:
            assert time.monotonic() < until, client.said
        client.signal(signal.SIGKILL)
        client.end()
    _let_end(clean_environment)
    assert _wait_for_event(clean_environment, run, "held").fields["with_log"]
    wait_until_closed(clean_environment, run)
    assert dayfly("attach", run).stdout == f"begun with {'*' * 13}\n[6.0, 6.0, 6.0]\n"


@pytest.mark.clients
def test_a_killed_keeper_is_restarted_by_the_next_command(
    clean_environment: Path, engine: Engine
) -> None:
    """And sees to what was left meanwhile: nobody has to know of gc."""
    with Client(clean_environment, 60) as client:
        run = client.reach("connected")
        keeper = keepers.started(clean_environment)
        client.die_unkept()
    assert keepers.process(clean_environment) is None
    assert "destroyed in the background" in dayfly("ps").stderr
    assert keepers.started(clean_environment).pid != keeper.pid
    wait_until_closed(clean_environment, run)
    assert json.loads(dayfly("ps", "--json").stdout) == []


def test_a_client_that_is_killed_after_its_ctrl_c_leaves_nothing_to_hold(
    clean_environment: Path, engine: Engine
) -> None:
    """Its user has said what is wanted: the end."""
    with Client(clean_environment, 600) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.signal(signal.SIGINT)
        client.reach("cancelled")
        client.signal(signal.SIGKILL)
        client.end()
    wait_until_closed(clean_environment, run)


@pytest.mark.clients
def test_an_act_that_is_killed_is_started_again(clean_environment: Path, engine: Engine) -> None:
    """Keeper, act or client: whoever dies, the others go on."""
    with Client(clean_environment, 60) as client:
        run = client.reach("connected")
        client.signal(signal.SIGKILL)
        client.end()
    _wait_for_event(clean_environment, run, "closing")
    for act in keepers.acts(clean_environment):
        act.kill()
    wait_until_closed(clean_environment, run)


def test_a_machine_that_ends_under_a_held_run_is_noticed(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can come of it any more: the journal says why, and the keeper destroys the rest. (The look is made in this process,
    with less patience than the keeper's.)"""
    with Client(clean_environment, 600) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.die_unkept()
    for machine in _guardians(run):
        machine.kill()
    monkeypatch.setattr(tend, "_CONNECT_S", 0.5)
    again = tend.tend(Context.open(), run, print)
    assert again is not None
    assert again <= time.time()
    assert _wait_for_event(clean_environment, run, "instance_lost").fields["state"] == "terminated"
    assert "destroyed in the background" in dayfly("ps").stderr
    wait_until_closed(clean_environment, run)


def _guardians(run: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if run in line and any(part.endswith("loopback.py") for part in line):
            found.append(process)
    return found
