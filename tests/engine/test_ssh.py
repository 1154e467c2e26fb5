"""Runs on a machine of one's own, a real OpenSSH server on loopback, with the real engine: its key comes, goes, and nothing else changes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly import cluster
from dayfly.errors import NoCapacity
from dayfly.infra import ssh_records
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options
from tests.engine.client import Client, dayfly, wait_until_closed
from tests.own_machine import OwnMachine, own_machine, reachable

pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.tried("ssh", "real")]

_CODE = """
import sys
from dayfly import cluster


@cluster(provider="ssh", host={host!r}, environment=[])
def work(seconds):
    import time

    print("begun", flush=True)
    time.sleep(seconds)
    return seconds


print("value", work(float(sys.argv[1])), flush=True)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnMachine]:
    """The machine, and this process's way to it."""
    with own_machine(tmp_path) as made, reachable(made, monkeypatch):
        yield made


def _where(number: int) -> dict[str, object]:
    return {"twice": 2 * number, "home": os.environ["HOME"], "run": os.environ["DAYFLY_RUN"]}


def test_a_function_runs_there_and_the_machine_is_as_it_was(
    workspace: Workspace, engine: Engine, machine: OwnMachine
) -> None:
    """From decorator to receipt: nothing but the run's key and its folders was there, and all of that is gone again."""
    job = cluster(provider="ssh", host=machine.name, environment=[])(_where).submit(4)
    value = job.result()
    assert value["twice"] == 8
    assert value["home"] == str(machine.server.home)
    assert value["run"] == job.id
    receipt = job.receipt()
    assert (receipt.provider, receipt.destroyed, receipt.declared) == ("ssh", 2, 2)
    assert (receipt.left, receipt.usd, receipt.how, receipt.notes) == (0, 0.0, "pulumi", ())
    assert machine.is_clean, (machine.keys.read_text(), machine.left)
    assert machine.keys.stat().st_mode & 0o777 == 0o640
    assert ssh_records.open_ones() == []
    history = journal.read(workspace.directory(job.id))
    assert history.machine is not None
    assert history.machine.host_key == machine.server.machine.host_key
    listed = json.loads(dayfly("gc", "--json").stdout)
    assert [finding for finding in listed if finding["provider"] == "ssh"] == []


@pytest.mark.clouds
def test_two_runs_at_once_have_a_key_each(
    workspace: Workspace, engine: Engine, machine: OwnMachine
) -> None:
    """One ends while the other goes on, and takes nothing of the other's."""
    spec = Spec(provider="ssh", host=machine.name)
    first, second = (RunStack(spec, workspace, engine, ladder(spec)) for _ in range(2))
    with first:
        with second:
            text = machine.keys.read_text()
            assert text.startswith(machine.before)
            assert [text.count(stack.id) for stack in (first, second)] == [1, 1]
            assert 'restrict,pty,port-forwarding,expiry-time="' in text
        text = machine.keys.read_text()
        assert [text.count(stack.id) for stack in (first, second)] == [1, 0]
    assert machine.is_clean


@pytest.mark.clouds
def test_a_jump_leads_there(workspace: Workspace, engine: Engine, machine: OwnMachine) -> None:
    """By the configuration's ProxyJump, for the user's ssh, the session and `dayfly ssh`."""
    server = machine.server.machine
    machine.also(
        "inside",
        "HostName 127.0.0.1",
        f"Port {server.port}",
        f"User {server.user}",
        f"ProxyJump {machine.name}",
    )
    job = cluster(provider="ssh", host="inside", environment=[])(_where).submit(2)
    assert job.result()["twice"] == 4
    assert journal.read(workspace.directory(job.id)).machine.via == "inside"  # type: ignore[union-attr]
    assert job.receipt().left == 0
    assert machine.is_clean


def test_a_host_that_is_down_is_a_rung_like_a_full_region(
    workspace: Workspace, engine: Engine, machine: OwnMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ladder, one program: a host of one's own and a cloud; the cloud's machine is taken where the host is out of reach."""
    machine.also("down", "HostName 127.0.0.1", "Port 1")
    with Emulator(Options(time_scale=10)) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        on_both = {"provider": ["ssh", "lambda"], "environment": [], "instance_type": "gpu_1x_a100"}
        notes: list[str] = []
        offers = ladder(
            Spec(provider=["ssh", "lambda"], host="down", instance_type="gpu_1x_a100"), notes.append
        )
        assert {offer.provider for offer in offers} == {"lambda"}
        assert "host down cannot be reached" in notes[0]
        jobs = [
            cluster(host=name, **on_both)(_where).submit(number)  # type: ignore[call-overload]
            for number, name in enumerate((machine.name, "down"))
        ]
        assert [job.result()["twice"] for job in jobs] == [0, 2]
        assert [job.receipt().provider for job in jobs] == ["ssh", "lambda"]
        assert cloud.live() == []
    assert machine.is_clean
    with pytest.raises(NoCapacity, match="host down cannot be reached"):
        ladder(Spec(provider="ssh", host="down"))


@pytest.mark.clouds
def test_a_host_that_goes_between_plan_and_run_is_left_for_the_next_rung(
    workspace: Workspace, engine: Engine, machine: OwnMachine
) -> None:
    """Nothing was done there, for certain, and nothing is left to be looked for."""
    spec = Spec(provider=["ssh", "local"], host=machine.name)
    offers = ladder(spec)
    os.kill(machine.server.pid, signal.SIGSTOP)
    machine.config.write_text(
        f"ConnectTimeout 1\n{machine.config.read_text()}".replace(
            f"Port {machine.server.machine.port}", "Port 1"
        )
    )
    try:
        stack = RunStack(spec, workspace, engine, offers)
        with stack as found:
            assert found.provider == "local"
    finally:
        os.kill(machine.server.pid, signal.SIGCONT)
    assert ssh_records.open_ones() == []
    assert machine.is_clean


@pytest.mark.clouds
@pytest.mark.parametrize("event", ["up_started", "launched", "job_started"])
def test_a_dead_client_s_key_is_taken_out_again(
    clean_environment: Path, engine: Engine, machine: OwnMachine, event: str
) -> None:
    """By `gc`, with the keeper dead as well, whatever the run had come to."""
    with Client(clean_environment, 60, _CODE.format(host=machine.name)) as client:
        run = client.reach(event)
        client.die_unkept()
    done = dayfly("gc", "--yes", "--held")
    assert done.returncode == 0, done.stderr
    wait_until_closed(clean_environment, run)
    assert machine.is_clean, (machine.keys.read_text(), machine.left)
    assert ssh_records.open_ones() == []


def test_the_keeper_takes_the_key_out_without_the_user_s_own(
    clean_environment: Path, engine: Engine, machine: OwnMachine
) -> None:
    """The run's own key is enough: the agent may have forgotten the user's by then."""
    with Client(clean_environment, 60, _CODE.format(host=machine.name)) as client:
        run = client.reach("machine")
        machine.config.write_text(
            machine.config.read_text().replace("IdentitiesOnly yes", "PubkeyAuthentication no")
        )
        client.signal(signal.SIGKILL)
        client.end()
        wait_until_closed(clean_environment, run)
    assert machine.is_clean, (machine.keys.read_text(), machine.left)


@pytest.mark.clouds
def test_the_command_line_knows_it(
    clean_environment: Path, engine: Engine, machine: OwnMachine
) -> None:
    """Plan, doctor, ps, ssh and attach, as with any other provider."""
    plan = dayfly("plan", "--provider", "ssh", "--host", machine.name, "--json")
    assert plan.returncode == 0, plan.stderr
    planned = json.loads(plan.stdout)
    assert [r["type"] for r in planned["resources"]] == [
        "pulumi-python:dynamic/dayfly:SshKey",
        "pulumi-python:dynamic/dayfly:SshReady",
    ]
    assert planned["worst_case_usd"] == 0.0
    doctor = dayfly("doctor", "--json", DAYFLY_HOST=machine.name)
    checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
    assert checks["provider ssh"]["level"] == "ok"
    assert machine.name in checks["host"]["detail"]
    with Client(clean_environment, 5, _CODE.format(host=machine.name)) as client:
        run = client.reach("job_started")
        (listed,) = json.loads(dayfly("ps", "--json").stdout)
        assert (listed["id"], listed["provider"]) == (run, "ssh")
        shell = dayfly("ssh", run, "--", "echo", "$HOME")
        assert shell.stdout.strip() == str(machine.server.home), shell.stderr
        client.die_unkept()
    attached = dayfly("attach", run)
    assert attached.returncode == 0, attached.stderr
    assert machine.is_clean
