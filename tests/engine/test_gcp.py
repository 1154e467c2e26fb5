"""Runs on Compute Engine's emulator with the real engine: the plan, a call, full zones, refusals, a lost instance, preemption, deletions
that go wrong, the bill; nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import ProvisionFailed
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.gcp import Emulator
from tests.emulators.gcp.meter import INCREMENT_S, LEAST_S, Bill
from tests.engine.client import Client, dayfly, wait_until_closed

pytestmark = [
    pytest.mark.engine,
    pytest.mark.sshd,
    pytest.mark.long,
    pytest.mark.tried("gcp", "emulator"),
]


@pytest.fixture(scope="module")
def world() -> Iterator[Emulator]:
    """One for all of them."""
    with Emulator(create_s=3.0) as emulator:
        yield emulator


@pytest.fixture
def cloud(world: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """As the environment tells of it; whoever leaves something in it fails."""
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    yield world
    world.set(full=[], quotas={}, forbidden=False, throttled=0, unfinished=0, stuck={}, delete_s=0)
    world.set(denied={}, held={})
    assert world.rows() == {}


def _stack(spec: Spec, workspace: Workspace, engine: Engine, told: list[str]) -> RunStack:
    def observe(event: journal.Event) -> None:
        if event.name == "progress":
            told.append(str(event.fields["text"]))

    return RunStack(spec, workspace, engine, ladder(spec), observe=observe)


def test_a_function_runs_with_the_gpu_that_was_paid_for(cloud: Emulator) -> None:
    """From the decorator to the receipt; the plan is the engine's own preview, and the recorder's is the same."""

    @cluster(provider="gcp", gpu="T4", region="us-central1", environment=[], time="30m")
    def function() -> dict[str, Any]:
        smi = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(smi, capture_output=True, text=True, check=True)
        return {"gpu": done.stdout.strip(), "host": os.uname().nodename}

    plan = function.plan()
    assert plan.resources_from == "engine"
    types = [each.type for each in plan.resources if each.type.startswith("gcp:")]
    assert sorted(types) == [
        "gcp:compute/firewall:Firewall",
        "gcp:compute/instance:Instance",
        "gcp:compute/network:Network",
        "gcp:compute/subnetwork:Subnetwork",
    ]
    job = function.submit()
    value = job.result()
    history = journal.read(job.directory)
    assert value == {
        "gpu": "Tesla T4",
        "host": str(history.machine and history.machine.id).rpartition("/")[2],
    }
    recorded = {(each["type"], each["name"]) for each in history.field("resources", "resources")}
    assert recorded == {(each.type, each.name) for each in plan.resources}
    (made,) = [e for e in cloud.events("launch_accepted") if job.id in e["instance"]]
    assert made["labels"] == history.run.tags
    receipt = job.receipt(timeout=120)
    assert (receipt.destroyed, receipt.declared, receipt.left) == (4, 4, 0)
    assert (receipt.how, receipt.notes) == ("pulumi", ())


@pytest.mark.clouds
def test_full_zones_and_quotas_are_left_for_what_they_do_not_hold_for(
    cloud: Emulator, workspace: Workspace, engine: Engine
) -> None:
    """A region's quota for another region, a full zone for the next one; nothing of the rungs below stays."""
    cloud.set(full=["*@us-west1-a"], quotas={"NVIDIA_T4_GPUS@us-central1": 0})
    spec = Spec(provider="gcp", gpu="T4", max_runtime="30m")
    told: list[str] = []
    stack = _stack(spec, workspace, engine, told)
    first = stack.id
    with stack as machine:
        assert machine.region == "us-west1-b"
        (path,) = cloud.rows("instances")
        assert machine.id == path
    short, full = (text for text in told if text.startswith("no "))
    assert short.startswith("no quota: n1-standard-8+nvidia-tesla-t4 in gcp/us-central1-a: ")
    assert "Quota 'NVIDIA_T4_GPUS' exceeded." in short
    assert full.startswith("no capacity: n1-standard-8+nvidia-tesla-t4 in gcp/us-west1-a: ")
    assert "does not have enough resources available" in full
    below = json.loads((workspace.directory(first) / "receipt.json").read_text())
    assert (below["usd"], below["left"]) == (0.0, 0)


@pytest.mark.clouds
def test_an_instance_that_the_plugin_has_given_up_is_found_by_its_labels(
    cloud: Emulator, workspace: Workspace, engine: Engine
) -> None:
    """It is in no state, and runs; a deletion that fails at first is asked for again."""
    cloud.set(unfinished=1, stuck={"networks": 1})
    spec = Spec(provider="gcp", gpu="T4", region="us-west1-a", max_runtime="30m")
    told: list[str] = []
    stack = _stack(spec, workspace, engine, told)
    with pytest.raises(ProvisionFailed, match="timeout while waiting"), stack:
        pass
    receipt = json.loads((stack.directory / "receipt.json").read_text())
    assert receipt["left"] == 0
    assert receipt["usd"] > 0
    assert len(cloud.events("launch_accepted")) >= 1


@pytest.mark.clouds
def test_a_spot_machine_that_is_taken_back_is_another_attempt(cloud: Emulator) -> None:
    """Compute Engine's own record says that it was; with `retries=1` the second one gives the value."""

    @cluster(
        provider="gcp",
        gpu="T4",
        region="us-central1",
        spot=True,
        environment=[],
        time="30m",
        retries=1,
    )
    def function() -> str:
        while not Path("/tmp/go").exists():
            time.sleep(0.05)
        return os.uname().nodename

    job = function.submit()
    _until_it_runs(job, "")
    first = job.id
    (instance,) = cloud.rows("instances")
    assert cloud.rows()[instance]["scheduling"]["provisioningModel"] == "SPOT"
    cloud.preempt(instance)
    _until_it_runs(job, first)
    # The function's machine has a disk of its own.
    touched = dayfly("ssh", job.id, "--", "touch /tmp/go")
    assert touched.returncode == 0, touched.stderr
    assert job.id in job.result(timeout=100)
    assert job.receipt(timeout=100).usd_per_hour < 0.5
    runs = journal.histories(Context.open().workspace.runs, closed=True)
    states = {e.fields["state"] for h in runs for e in h.events if e.name == "drift"}
    assert (len(runs), states) == (2, {"preempted"})


def _until_it_runs(job: Any, unlike: str) -> None:
    until = time.monotonic() + 100
    while job.id == unlike or job.status() != "run":
        time.sleep(0.1)
        assert time.monotonic() < until, job.status()
        assert not job.done(), job.exception()


_CLIENT = """
import sys
from dayfly import cluster


@cluster(provider="gcp", gpu="T4", region="us-central1-b", environment=[], time="30m")
def work(seconds):
    import time

    time.sleep(seconds)


work(float(sys.argv[1]))
"""


def test_what_a_dead_client_left_behind_in_the_middle_of_its_up_is_cleared_away(
    cloud: Emulator, clean_environment: Path
) -> None:
    """Client and keeper die while the engine creates; another process ends all of it, by labels and names."""
    cloud.set(create_s=2.0)
    try:
        with Client(clean_environment, 60, _CLIENT) as client:
            run = client.reach("up_started")
            client.die_unkept()
        assert client.process.returncode == -signal.SIGKILL
        done = dayfly("gc", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        wait_until_closed(clean_environment, run)
        (receipt,) = json.loads(done.stdout)
        assert (receipt["run"], receipt["left"]) == (run, 0)
    finally:
        cloud.set(create_s=0.05)


@pytest.mark.clouds
@pytest.mark.parametrize(
    ("how", "kind", "words", "tries"),
    [
        ("403 forbidden", "auth", "'compute.instances.create' permission", 1),
        ("403 rateLimitExceeded", "rate_limit", "Queries per minute", 2),
        ("429 rateLimitExceeded", "rate_limit", "Queries per minute", 2),
    ],
)
def test_a_machine_that_may_not_be_made_leaves_nothing_and_says_why(
    cloud: Emulator,
    workspace: Workspace,
    engine: Engine,
    *,
    how: str,
    kind: str,
    words: str,
    tries: int,
) -> None:
    """The network is up by then, and goes; no other zone is asked; what passes is asked for again first, and for no longer."""
    cloud.set(denied={"instances": how})
    before = len(cloud.events("denied"))
    told: list[str] = []
    stack = _stack(Spec(provider="gcp", gpu="T4", region="us-central1"), workspace, engine, told)
    said = f"googleapi: Error {how[:3]}: .*{words}"
    with pytest.raises(ProvisionFailed, match=said) as caught, stack:
        pass
    assert caught.value.kind == kind
    asked = cloud.events("denied")[before:]
    assert (len(asked) >= tries, len(asked) > 1) == (True, tries > 1)
    assert len({each["path"] for each in asked}) == 1
    assert any("/networks/" in e["path"] for e in cloud.events("gone") if stack.id in e["path"])
    assert cloud.rows() == {}
    assert stack.receipt is not None
    assert (stack.receipt.left, stack.receipt.usd) == (0, 0.0)


@pytest.mark.clouds
@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ({"delete_s": 8.0}, "pulumi"),
        ({"held": {"instances": 1}}, "provider"),
        ({"stuck": {"instances": 1}}, "provider"),
    ],
    ids=["slow", "refused", "failed"],
)
def test_a_machine_whose_deletion_takes_long_or_goes_wrong_is_proved_gone(
    cloud: Emulator, workspace: Workspace, engine: Engine, fault: dict[str, Any], how: str
) -> None:
    """No receipt is signed before it is gone, and all of its time is on the bill."""
    spec = Spec(provider="gcp", instance_type="e2-standard-4", region="us-west1-a")
    with (stack := _stack(spec, workspace, engine, [])) as machine:
        cloud.set(**fault)
        asked = time.time()
    assert cloud.rows() == {}
    receipt = stack.receipt
    assert receipt is not None
    assert (receipt.left, receipt.how) == (0, how)
    (gone,) = [e["at"] for e in cloud.events("gone") if e["path"] == machine.id]
    assert asked + fault.get("delete_s", 0) <= gone <= receipt.confirmed_at
    assert receipt.lived_s >= _bill(cloud, machine.id).seconds


@pytest.mark.clouds
def test_the_receipt_is_what_compute_engine_bills(
    cloud: Emulator, workspace: Workspace, engine: Engine
) -> None:
    """Never less; more by the time in which it was made, by one increment and by a fiftieth at most.

    The emulator's networks go in milliseconds; the time that they take is on the receipt, too.
    """
    spec = Spec(provider="gcp", gpu="T4", region="us-west1-a", max_runtime="30m")
    with (stack := _stack(spec, workspace, engine, [])) as machine:
        # So long that the least that is billed, a minute, is none of it.
        time.sleep(LEAST_S)
    receipt, bill = stack.receipt, _bill(cloud, machine.id)
    assert receipt is not None
    asked = journal.read(stack.directory).last("up_started")
    assert asked is not None
    starting_s = bill.running - asked.time
    assert 0 <= starting_s < 30
    assert bill.seconds > LEAST_S
    assert receipt.usd_per_hour == pytest.approx(bill.usd_per_hour, abs=1e-6)
    more = receipt.usd - bill.usd
    allowed = bill.usd * 0.02 + bill.usd_per_hour * (INCREMENT_S + starting_s) / 3600
    # The rate of an Offer has six decimals.
    assert -1e-7 <= more <= allowed + 1e-7


def _bill(cloud: Emulator, instance: str) -> Bill:
    (found,) = [each for each in cloud.bills() if each.instance == instance]
    return found
