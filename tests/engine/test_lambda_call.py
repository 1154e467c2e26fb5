"""Calls on Lambda Cloud's emulator: machines that lie about their GPUs are replaced, and one that dies is called lost."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dayfly import attach, cluster
from dayfly.errors import HostKeyMismatch, InstanceLost
from dayfly.infra import creations
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_rules import ssh_rule
from dayfly.runtime.context import Context
from dayfly.runtime.records import Keys
from dayfly.runtime.session import Session
from dayfly.stacks import journal
from dayfly.stacks.journal import History
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options
from tests.emulators.until import until
from tests.engine.client import dayfly

pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.tried("lambda", "emulator")]
remote = cluster(
    provider="lambda",
    instance_type="gpu_1x_a100",
    region="us-east-1",
    environment=[],
    time="30m",
)


def runs() -> list[History]:
    """Every run of this test, the oldest first."""
    return journal.histories(Context.open().workspace.runs, closed=True)


@pytest.mark.long
def test_the_function_runs_on_the_first_machine_that_is_what_was_paid_for(
    cloud: Emulator, tmp_path: Path
) -> None:
    """Two lie and are destroyed; on the third the function starts, once, behind a host key that never left it."""
    cloud.lie_next("model", "init")
    started = tmp_path / "started"

    @remote
    def function(path: str) -> dict[str, Any]:
        smi = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(smi, capture_output=True, text=True, check=True)
        return {"gpu": done.stdout.strip(), "host": os.uname().nodename, "path": path}

    job = function.submit(str(started))
    value = job.result(timeout=500)
    job.receipt(timeout=500)
    assert value["gpu"] == "NVIDIA A100-PCIE-40GB"
    assert value["host"] != os.uname().nodename
    lied, failed, sound = runs()
    assert lied.field("machine_unfit", "check") == "model"
    assert "Tesla K80" in lied.field("machine_unfit", "found")
    assert failed.field("machine_unfit", "check") == "driver"
    assert "802 CUDA_ERROR_SYSTEM_NOT_READY" in failed.field("machine_unfit", "found")
    assert [run.started for run in (lied, failed, sound)] == [False, False, True]
    assert all(run.closed for run in (lied, failed, sound))
    assert sound.id == job.id
    assert sound.field("gpus_verified", "gpus") == ["NVIDIA A100-PCIE-40GB"]
    assert sound.field("deadline_armed", "action") == "end_processes"
    names = [event.name for event in sound.events]
    order = ["connected", "host_key_offered", "host_key_rotated", "gpus_verified", "job_started"]
    assert [name for name in names if name in order] == order
    assert len(cloud.events("launch_accepted")) == 3
    assert cloud.live() == []


def test_a_machine_that_dies_is_called_lost_with_its_state(cloud: Emulator, tmp_path: Path) -> None:
    """By the provider's word; before that another process could log in with the new key alone. (How soon: test_lost.)"""

    @remote
    def function() -> None:
        time.sleep(3600)

    job = function.submit()
    while job.status() != "run":
        time.sleep(0.1)
        assert not job.done(), job.exception()
    (history,) = runs()
    machine = history.machine
    assert machine is not None
    assert machine.host_key != history.run.host_key
    keys = Keys(
        history.id, history.directory / "user_key", (history.directory / "hmac_key").read_bytes()
    )
    with Session(machine, keys) as session:
        assert session.status().state == "running"
    former = replace(machine, host_key=history.run.host_key)
    with pytest.raises(HostKeyMismatch), Session(former, keys, connect_timeout_s=0.5):
        pass
    cloud.mark(machine.id, "preempted")
    cloud.halt(machine.id)
    with pytest.raises(InstanceLost, match="preempted") as caught:
        job.result(timeout=300)
    assert caught.value.state == "preempted"
    job.wait_closed()
    assert cloud.live() == []


@pytest.mark.clouds
def test_a_machine_that_is_ended_behind_our_back_is_noticed_and_billed_until_then(
    cloud: Emulator,
) -> None:
    """Its API knows none of the id when it is asked; the client is told, and the bill ends where that was seen."""
    cloud.renew(Options(time_scale=10, linger_s=0))

    @remote
    def function() -> None:
        time.sleep(3600)

    job = function.submit()
    while job.status() != "run":
        time.sleep(0.1)
        assert not job.done(), job.exception()
    machine = runs()[-1].machine
    assert machine is not None
    # The client may ask as soon as its connection has broken, which is before the machine is all gone.
    cloud.add_faults([{"op": "get_instance", "kind": "hold"}])
    LambdaApi.from_environment().terminate(machine.id)
    until(lambda: bool(cloud.events("unlisted")), timeout_s=60)
    cloud.clear_faults()
    with pytest.raises(InstanceLost, match="terminated"):
        job.result(timeout=300)
    receipt = job.receipt(timeout=300)
    noted = next(event for event in runs()[-1].events if event.name == "drift")
    assert noted.fields["kind"] == "deleted"
    (asked,) = [made for made in creations.read(job.directory) if made.id == machine.id]
    assert receipt.lived_s == pytest.approx(noted.time - asked.begun, abs=0.01)
    assert receipt.usd >= cloud.meter()["dollars"]


@pytest.mark.clouds
def test_a_client_that_has_moved_is_let_in_again(cloud: Emulator, tmp_path: Path) -> None:
    """The run's own ruleset is told where it is now: while it follows its function, and when somebody comes back to that."""
    cloud.renew(Options(time_scale=10, firewalls=True))
    api, go = LambdaApi.from_environment(), tmp_path / "go"
    api._again("PUT", "/firewall-rules", "closing the account's own rules", {"data": []})

    @remote
    def function(go: Path) -> int:
        while not go.exists():
            time.sleep(0.05)
        return 7

    def move() -> None:
        """Who is let in is where this computer was."""
        (ruleset,) = api.rulesets()
        api.set_rules(ruleset.id, [ssh_rule("203.0.113.9/32", ruleset.description)])

    def admitted() -> int:
        return sum(event.name == "admitted" for event in runs()[-1].events)

    job = function.submit(go)
    while job.status() != "run":
        time.sleep(0.1)
        assert not job.done(), job.exception()
    move()
    until(lambda: admitted() == 1, timeout_s=60)
    job.detach()
    move()
    again = attach(job.id)
    until(lambda: admitted() == 2, timeout_s=90)
    until(lambda: again.status() == "run", timeout_s=60)
    move()
    shell = dayfly("ssh", job.id, "--", "echo there")
    assert (shell.returncode, shell.stdout) == (0, "there\n"), shell.stderr
    # The function's machine has a disk of its own.
    touched = dayfly("ssh", job.id, "--", f"mkdir -p {go.parent} && touch {go}")
    assert touched.returncode == 0, touched.stderr
    assert again.result(timeout=200) == 7
    again.receipt(timeout=300)
    assert cloud.live() == []
