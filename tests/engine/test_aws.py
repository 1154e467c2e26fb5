"""Runs on emulated EC2 with the real engine and the real boto3: a real machine, zones without capacity, half-made instances; nothing stays."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.errors import ProvisionFailed
from dayfly.infra.spec import Spec
from dayfly.runtime.call import ladder
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.aws import Aws

pytestmark = [pytest.mark.engine, pytest.mark.tried("aws", "emulator")]
A10G = Spec(provider="aws", gpu="A10G:1", region="us-east-1", max_runtime="1h")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The emulated account, as the environment tells of it."""
    with Aws() as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace") if file.is_file() else ""


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
    # By the second, from the moment at which the plugin has said that it runs.
    assert receipt.usd == pytest.approx(math.ceil(receipt.lived_s) * receipt.usd_per_hour / 3600)
    assert 0 < receipt.lived_s < time.time() - begun


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
    # The plugin tries again by itself, and would do so for most of an hour.
    assert cloud.calls("RunInstances") == 2 * 3 + 1
    assert cloud.left() == {}


def test_what_is_half_made_is_destroyed_with_the_rest(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """EC2 has answered with an id, and the instance ends before it runs; the account has no default network."""
    cloud.instances.break_next("Server.InternalError", "Internal error on launch")
    stack = RunStack(A10G, workspace, engine, ladder(A10G))
    with pytest.raises(ProvisionFailed, match=r"Server\.InternalError") as caught, stack:
        pass
    assert caught.value.kind == "transient"
    assert len(cloud.events("launch_accepted")) == 1
    assert cloud.left() == {}
