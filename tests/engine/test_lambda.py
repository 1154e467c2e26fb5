"""Runs on Lambda Cloud's emulator with the real engine: a real machine, a lost answer, a full region; nothing stays."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from dayfly.infra import cost, creations, port_map, providers
from dayfly.infra.lambda_wait import banner
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal
from dayfly.stacks.budget import Budget
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.lambda_cloud.emulator import Emulator

pytestmark = [pytest.mark.engine, pytest.mark.tried("lambda", "emulator")]


def _nothing_left(cloud: Emulator) -> None:
    assert cloud.live() == []
    left = {"ssh_key": 0, "ruleset": 0}
    for event in cloud.events():
        for thing in left:
            left[thing] += {f"{thing}_added": 1, f"{thing}_deleted": -1}.get(event["event"], 0)
    assert left == {"ssh_key": 0, "ruleset": 0}


def _agrees(receipt: Receipt, cloud: Emulator) -> None:
    """Never under the meter; over it by one increment at most, and one for the engine, which no clock makes ten times as fast."""
    meter, increment_s = (
        cloud.meter()["dollars"],
        providers.load("lambda").limits.billing_increment_s,
    )
    assert meter <= receipt.usd + 1e-9
    assert receipt.usd <= meter + 2 * receipt.usd_per_hour * increment_s / 3600 + 1e-9


def test_a_run_has_a_machine_of_its_own_and_leaves_nothing(
    workspace: Workspace, engine: Engine, cloud: Emulator
) -> None:
    """Key, ruleset, instance and wait; the bill is the meter's; no key is readable on this computer meanwhile."""
    spec = Spec(provider="lambda", instance_type="gpu_1x_a100", region="us-east-1", cores=8)
    stack = RunStack(spec, workspace, engine, ladder(spec))
    with stack as machine:
        (row,) = cloud.live()
        assert row["id"] == machine.id
        assert {tag["key"]: tag["value"] for tag in row["tags"]} == journal.read(
            stack.directory
        ).run.tags
        _await_ssh(*port_map.endpoint(machine.id, machine.host, machine.port))
        said = journal.read(stack.directory).field("machine", "firewall")
        assert said == "22/tcp from 127.0.0.1/32 (this computer's own address)"
        secret = (stack.directory / "host_key").read_text().splitlines()[4]
        kept = {f for f in workspace.home.rglob("*") if f.is_file() and secret in _text(f)}
        assert kept == {stack.directory / "host_key"}
        assert cloud.api_key not in "".join(_text(f) for f in workspace.home.rglob("*"))
    receipt = stack.receipt
    assert receipt is not None
    assert (receipt.destroyed, receipt.declared, receipt.left) == (4, 4, 0)
    assert (receipt.how, receipt.notes) == ("pulumi", ())
    _agrees(receipt, cloud)
    _nothing_left(cloud)


@pytest.mark.clouds
def test_two_machines_are_two_in_every_account(
    workspace: Workspace, engine: Engine, cloud: Emulator
) -> None:
    """Neither is taken for the other's twin; where the second cannot be had the first is gone before the next region."""
    for region in ("us-west-2", "us-east-1", "us-midwest-1", "europe-central-1"):
        cloud.set_capacity("gpu_1x_a10", region, 0, listed=False)
    cloud.set_capacity("gpu_1x_a10", "us-west-1", 1, listed=True)
    cloud.set_capacity("gpu_1x_a10", "us-south-1", 5, listed=True)
    spec = Spec(provider="lambda", instance_type="gpu_1x_a10", nodes=2)
    stack = RunStack(spec, workspace, engine, ladder(spec))
    first = stack.id
    with stack as machine:
        assert machine.region == "us-south-1"
        below = json.loads((workspace.directory(first) / "receipt.json").read_text())
        assert below["left"] == 0
        rows = {row["id"] for row in cloud.live()}
        history = journal.read(stack.directory)
        assert [each.id for each in history.machines] == [machine.id, *(rows - {machine.id})]
        assert len({each.host_key for each in history.machines}) == 2
        assert all(each.inner_host.startswith("10.") for each in history.machines)
        made = [c.node for c in creations.read(stack.directory) if c.kind == "instance"]
        assert sorted(made) == [0, 1]
    receipt = stack.receipt
    assert receipt is not None
    assert (receipt.destroyed, receipt.declared, receipt.left) == (6, 6, 0)
    assert (receipt.how, receipt.notes, receipt.at_most) == ("pulumi", (), False)
    assert receipt.usd + below["usd"] == pytest.approx(cloud.meter()["dollars"])
    _nothing_left(cloud)


def _await_ssh(host: str, port: int) -> None:
    """Its server begins anew when the user data has been applied, which is after the machine has become ready."""
    until = time.monotonic() + 20
    while not (said := banner(host, port)).startswith("SSH-"):
        assert time.monotonic() < until, said
        time.sleep(0.05)


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace") if file.is_file() else ""


def test_a_full_region_is_left_at_once_and_a_lost_answer_is_adopted(
    workspace: Workspace, engine: Engine, cloud: Emulator
) -> None:
    """The refusal names where there is one; the launch there is carried out, and its answer never arrives.

    The rung below, which is being cleared away, takes nothing of a budget that would not pay for two.
    """
    for region in ("us-west-1", "us-west-2", "us-east-1", "us-midwest-1", "europe-central-1"):
        cloud.set_capacity("gpu_1x_a10", region, 0, listed=region == "us-west-1")
    cloud.set_capacity("gpu_1x_a10", "us-south-1", 5, listed=True)
    spec = Spec(provider="lambda", instance_type="gpu_1x_a10")
    told: list[Event] = []

    def observe(event: Event) -> None:
        told.append(event)
        # Not the second launch, by count: on a busy computer the first may have to be asked for once more.
        if event.name == "progress" and event.fields["text"].startswith("no capacity"):
            cloud.add_faults([{"op": "launch", "at": 1, "kind": "drop_after"}])

    offers = ladder(spec)
    budget = Budget("budget_per_day", 1.5 * cost.worst_case_usd(spec, offers[0]), "a test")
    limited = dataclasses.replace(workspace, budgets=(budget,))
    stack = RunStack(spec, limited, engine, offers, observe=observe)
    first = stack.id
    with stack as machine:
        assert machine.region == "us-south-1"
        assert [row["id"] for row in cloud.live()] == [machine.id]
        assert stack.id != first
        assert [line["hits"] for line in cloud.faults()["faults"]] == [1]
    texts = [event.fields["text"] for event in told if event.name == "progress"]
    (missed,) = [text for text in texts if text.startswith("no capacity")]
    assert "gpu_1x_a10 in lambda/us-west-1" in missed
    assert "us-south-1" in missed
    below = json.loads((workspace.directory(first) / "receipt.json").read_text())
    assert (below["usd"], below["left"]) == (0.0, 0)
    assert len(cloud.events("launch_accepted")) == 1
    assert stack.receipt is not None
    _agrees(stack.receipt, cloud)
    _nothing_left(cloud)
