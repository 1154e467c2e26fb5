"""Runs on emulated EC2 with the real engine and the real boto3: a real machine, zones without capacity, half-made instances; nothing stays."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import ProvisionFailed
from dayfly.infra import aws_inventory, aws_session, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal, recorder
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.aws import Aws, Fault
from tests.emulators.until import until
from tests.engine.client import Client, dayfly

pytestmark = [pytest.mark.engine, pytest.mark.tried("aws", "emulator")]
A10G = Spec(provider="aws", gpu="A10G:1", region="us-east-1", max_runtime="1h")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The emulated account, as the environment tells of it."""
    with Aws() as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


@pytest.fixture
def bare_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account whose default networks somebody has deleted; a machine more than rows is not needed."""
    with Aws(machines=False, default_vpc=False) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace") if file.is_file() else ""


def _agrees(receipt: Receipt, cloud: Aws, directory: Path) -> None:
    """Never under EC2's own meter, nor over it by more than 2% of it, one increment, and what EC2 gives away: the time of starting up, and
    that from the machine's end until its absence is proved."""
    (bill,) = cloud.meter()
    begun = next(e.time for e in journal.read(directory).events if e.name == "up_started")
    starting_s = cloud.instances.all()[0].launched - begun
    increment_s = providers.load("aws").limits.billing_increment_s
    ending_s = receipt.confirmed_at - cloud.instances.all()[0].ended
    most_s = 0.02 * bill.billed_s + increment_s + starting_s + ending_s
    # A rate has five places.
    rounding_usd = 5e-6 * bill.billed_s / 3600
    over_usd = receipt.usd - bill.dollars
    assert -rounding_usd <= over_usd <= most_s * bill.usd_per_hour / 3600 + rounding_usd
    assert 0 <= receipt.lived_s - bill.seconds <= most_s


def test_a_run_has_a_machine_of_its_own_and_leaves_nothing(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """Key, firewall, instance, all tagged; the bill is what was planned for an hour; no secret is readable on this computer meanwhile."""
    stack = RunStack(A10G, workspace, engine, ladder(A10G))
    begun = time.time()
    with stack as machine:
        (live,) = cloud.live()
        assert live.id == machine.id
        history = journal.read(stack.directory)
        carried = {tag["key"]: tag["value"] for tag in live.row.get_tags()}
        assert {n: v for n, v in carried.items() if n != "Name"} == history.run.tags
        assert (
            history.field("machine", "firewall")
            == "22/tcp from 127.0.0.1/32 (this computer's own address)"
        )
        secret = (stack.directory / "host_key").read_text().splitlines()[4]
        kept = {f for f in workspace.home.rglob("*") if f.is_file() and secret in _text(f)}
        assert kept == {stack.directory / "host_key"}
        account = cloud.environment()["AWS_SECRET_ACCESS_KEY"]
        assert account not in "".join(_text(f) for f in workspace.home.rglob("*"))
    receipt = stack.receipt
    assert receipt is not None
    assert (receipt.destroyed, receipt.declared, receipt.left) == (3, 3, 0)
    assert (receipt.how, receipt.notes) == ("pulumi", ())
    assert cloud.left() == {}
    _agrees(receipt, cloud, stack.directory)
    assert 0 < receipt.lived_s < time.time() - begun


@pytest.mark.clouds
@pytest.mark.long
def test_the_bill_of_more_than_the_least_is_what_was_planned_and_what_ec2_bills(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """A machine that is there for longer than the minute that EC2 bills at least: rate of the plan, receipt and meter agree."""
    (offer, *_) = ladder(A10G)
    stack = RunStack(A10G, workspace, engine, [offer])
    with stack:
        until(lambda: cloud.meter()[0].seconds > 61, timeout_s=120)
    receipt = stack.receipt
    assert receipt is not None
    (bill,) = cloud.meter()
    assert bill.billed_s > 61
    assert bill.usd_per_hour == pytest.approx(offer.usd_per_hour, rel=0.02)
    _agrees(receipt, cloud, stack.directory)


@pytest.mark.clouds
@pytest.mark.long
def test_a_default_network_that_gives_no_addresses_is_no_obstacle(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """The machine asks for its own, in the subnet of its zone; no network of the run's own has to be made."""
    ec2 = aws_session.client("ec2", "us-east-1")
    for each in ec2.describe_subnets()["Subnets"]:
        ec2.modify_subnet_attribute(SubnetId=each["SubnetId"], MapPublicIpOnLaunch={"Value": False})
    with RunStack(A10G, workspace, engine, ladder(A10G)) as machine:
        (live,) = cloud.live()
        assert (machine.id, bool(live.row.nics[0].public_ip)) == (live.id, True)
        assert cloud.calls("CreateVpc") == 0
    assert cloud.left() == {}


@pytest.mark.clouds
@pytest.mark.long
def test_regions_without_capacity_are_left_soon_and_leave_nothing(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """Two have none in any zone, in EC2's own words; the third has; what was tried and why is told, and nothing of it stays."""
    spec = Spec(provider="aws", instance_type="g5.xlarge", max_runtime="1h")
    for region in ("us-east-1", "us-east-2"):
        cloud.set_capacity("g5.xlarge", cloud.zones(region, "g5.xlarge"), 0)
    told: list[Event] = []
    stack = RunStack(spec, workspace, engine, ladder(spec), observe=told.append)
    with stack as machine:
        assert machine.region == "eu-west-1"
        assert [each.id for each in cloud.live()] == [machine.id]
    texts = [event.fields["text"] for event in told if event.name == "progress"]
    missed = [text for text in texts if text.startswith("no capacity")]
    assert [text.partition(":")[2].partition(":")[0].strip() for text in missed] == [
        "g5.xlarge in aws/us-east-1",
        "g5.xlarge in aws/us-east-2",
    ]
    assert all("api error InsufficientInstanceCapacity" in text for text in missed)
    receipts = [
        json.loads((each / "receipt.json").read_text()) for each in workspace.runs.iterdir()
    ]
    assert [each["left"] for each in receipts] == [0, 0, 0]
    assert sorted(each["usd"] > 0 for each in receipts) == [False, False, True]
    # The plugin tries again by itself, here once, and would do so for most of an hour.
    assert cloud.calls("RunInstances") == 2 * 2 + 1
    assert cloud.left() == {}


@pytest.mark.clouds
def test_what_is_half_made_is_destroyed_with_the_rest(
    workspace: Workspace, engine: Engine, bare_cloud: Aws
) -> None:
    """EC2 has answered with an id, and the instance ends before it runs; a network of the run's own goes, too."""
    cloud = bare_cloud
    cloud.instances.break_next("Server.InternalError", "Internal error on launch")
    stack = RunStack(A10G, workspace, engine, ladder(A10G))
    with pytest.raises(ProvisionFailed, match=r"Server\.InternalError") as caught, stack:
        pass
    assert caught.value.kind == "transient"
    assert len(cloud.events("launch_accepted")) == 1
    assert cloud.calls("CreateVpc") == 1
    assert cloud.left() == {}


def test_the_plan_is_the_engine_s_own_preview_and_the_recorder_agrees(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """Nothing is made for it, and the money is that of the first rung for an hour."""
    planned = cluster(provider="aws", gpu="A10G:1", region="us-east-1", time="1h", environment=[])(
        _ordinary
    ).plan()
    assert planned.resources_from == "engine"
    shown = {(each.type, each.name) for each in planned.resources}
    run = Run("a" * 32, "me", 0.0, 3600.0, workspace.home, "", "")
    offer = Offer(**planned.offers[0])
    listed = recorder.resources(A10G, offer, run)
    assert shown == {(each["type"], each["name"]) for each in listed}
    assert ("aws:ec2/instance:Instance", "instance") in shown
    assert planned.worst_case_usd == pytest.approx(offer.usd_per_hour)
    assert cloud.calls("RunInstances") == 0
    assert cloud.left() == {}


def _ordinary() -> int:
    return 1


@pytest.mark.clouds
@pytest.mark.long
@pytest.mark.sshd
def test_a_spot_machine_that_is_taken_back_is_replaced_and_the_value_comes(
    cloud: Aws, tmp_path: Path
) -> None:
    """From decorator to receipt, twice: the first machine is preempted in the run, and retries=1 pays for another."""
    remote = cluster(
        provider="aws",
        gpu="A10G:1",
        spot=True,
        region="us-east-1",
        environment=[],
        time="30m",
        retries=1,
    )

    @remote
    def function(path: str) -> dict[str, Any]:
        # The folder is of the machine, which is another one each time.
        if not os.path.exists("/tmp/second"):  # noqa: PTH110  # travels without this module's imports
            time.sleep(3600)
        smi = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(smi, capture_output=True, text=True, check=True)
        return {"gpu": done.stdout.strip(), "host": os.uname().nodename}

    job = function.submit("x")
    until(lambda: job.status() == "run" or job.done(), timeout_s=180)
    assert not job.done(), job.exception()
    (first,) = cloud.live()
    assert first.spot
    cloud.preempt(first.id)
    until(lambda: any(each.id != first.id for each in cloud.live()), timeout_s=180)
    (second,) = (each for each in cloud.live() if each.id != first.id)
    machine = second.machine
    assert machine is not None
    until(lambda: machine.run(["touch", "/tmp/second"]) == "", timeout_s=60)
    value = job.result(timeout=300)
    receipt = job.receipt(timeout=300)
    assert value["gpu"] == "NVIDIA A10G"
    assert value["host"] != os.uname().nodename
    stories = journal.histories(Context.open().workspace.runs, closed=True)
    assert len(stories) == 2
    assert all(each.closed for each in stories)
    assert stories[-1].field("deadline_armed", "action") == "poweroff"
    assert receipt.left == 0
    assert cloud.left() == {}


_CLIENT = """
from dayfly import cluster


@cluster(provider="aws", gpu="A10G:1", region="us-east-1", environment=[], time="30m")
def work():
    return 1


work()
"""


@pytest.mark.clouds
def test_a_client_killed_while_ec2_launches_leaves_what_gc_finds_by_tag(
    clean_environment: Path, engine: Engine, cloud: Aws
) -> None:
    """It and its keeper; the create ends and is recorded by nobody who could be told; gc destroys it, with key and group."""
    cloud.fault(Fault("RunInstances", delay_s=2.0))
    with Client(clean_environment, 0, _CLIENT) as client:
        run = client.reach("up_started")
        until(lambda: ("create", "aws:ec2/instance:Instance") in cloud.plugin.calls, timeout_s=120)
        client.die_unkept()
    until(lambda: len(cloud.live()) == 1, timeout_s=60)
    done = dayfly("gc", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    receipt = json.loads((clean_environment / "runs" / run / "receipt.json").read_text())
    assert receipt["left"] == 0
    assert cloud.left() == {}
    assert aws_inventory.inventory(None) == []


_PENDING = "pid=$(cat /run/shutdown.pid 2>/dev/null) && tr '\\0' ' ' </proc/$pid/cmdline"


def test_a_machine_whose_client_keeper_and_engine_are_gone_ends_itself(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """What the user data has armed calls `shutdown`, and EC2 ends what shuts itself down, with its disk."""
    stack = RunStack(A10G, workspace, engine, ladder(A10G))
    with stack:
        (live,) = cloud.live()
        box = live.machine
        assert box is not None
        # A shell that waits for as many minutes as there are until the deadline, and six.
        until(lambda: "poweroff" in box.run(["sh", "-c", _PENDING]), timeout_s=60)
        assert "sleep 3960" in box.run(["sh", "-c", _PENDING])
        # An hour later, which nobody waits for.
        box.run(["poweroff"])
        until(lambda: not cloud.live(), timeout_s=60)
        assert cloud.left().get("volume") is None
    assert stack.receipt is not None
    assert (stack.receipt.left, cloud.left()) == (0, {})
