"""Runs on Azure's emulator with the real engine: from the decorator to the receipt, and past what goes wrong; nothing stays."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import ProvisionFailed
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal, recorder
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.azure import Emulator, Options
from tests.emulators.azure.faults import Fault
from tests.emulators.until import until
from tests.engine.client import Client, dayfly, wait_until_closed

pytestmark = [
    pytest.mark.engine,
    pytest.mark.sshd,
    pytest.mark.long,
    pytest.mark.tried("azure", "emulator"),
]
_T4 = "Standard_NC4as_T4_v3"
# How often the plugin asks before it gives up.
_TRIES = 4
_GROUP = "azure-native:resources:ResourceGroup"
_SCRIPT = f"""
from dayfly import cluster


@cluster(provider="azure", instance_type="{_T4}", region="eastus", environment=[])
def work():
    return 1


print("value", work(), flush=True)
"""


@pytest.fixture
def azure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator, as the environment tells of it; a test may say how it behaves."""
    with Emulator(getattr(request, "param", None)) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def _deleted(azure: Emulator) -> list[str]:
    """What the engine has asked to delete."""
    return [type for act, type in azure.calls if act == "delete"]


def _climbing(spec: Spec, workspace: Workspace, engine: Engine) -> tuple[RunStack, list[str]]:
    """A stack on the ladder of a Spec, and what is told of its rungs."""
    told: list[str] = []
    stack = RunStack(
        spec,
        workspace,
        engine,
        ladder(spec),
        observe=lambda event: told.append(str(event.fields.get("text", ""))),
    )
    return stack, told


def test_a_function_runs_on_a_machine_with_its_gpu_and_nothing_is_left(azure: Emulator) -> None:
    """The plan is what is made; the value is the machine's; the engine deletes the group alone, and the bill is the meter's."""

    @cluster(provider="azure", gpu="T4:1", region="eastus", environment=[], time="30m")
    def function() -> dict[str, Any]:
        import os

        smi = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(smi, capture_output=True, text=True, check=True)
        return {"gpu": done.stdout.strip(), "host": os.uname().nodename}

    plan = function.plan()
    job = function.submit()
    value = job.result(timeout=300)
    receipt = job.receipt(timeout=300)
    assert value == {"gpu": "Tesla T4", "host": f"dayfly-{job.id[:12]}"}
    assert (receipt.destroyed, receipt.declared, receipt.left) == (7, 7, 0)
    assert (receipt.how, receipt.notes) == ("pulumi", ())
    assert _deleted(azure) == [_GROUP]
    assert azure.world.all() == []
    history = journal.read(job.directory)
    (bill,) = azure.world.bills
    # Of a run of seconds most is what comes before the machine and after it; the next test has the share of a longer one.
    around_s = _starting_s(history, bill.begun) + receipt.confirmed_at - bill.begun - bill.seconds
    over = receipt.usd - azure.world.usd()
    assert 0 <= over <= (around_s + _increment_s(azure)) * receipt.usd_per_hour / 3600
    assert receipt.usd_per_hour == plan.usd_per_hour > 0.526
    assert azure.world.usd() == pytest.approx(plan.usd_per_hour * bill.seconds / 3600, rel=1e-5)
    assert history.field("machine", "firewall").startswith("22/tcp from 127.0.0.1/32")
    assert history.field("gpus_verified", "gpus") == ["Tesla T4"]
    shown = recorder.resources(_spec(history), ladder(_spec(history))[0], history.run)
    assert {(r.type, r.name) for r in plan.resources} == {(r["type"], r["name"]) for r in shown}


def _starting_s(history: journal.History, billed_from: float) -> float:
    """From the request for a machine, with which its bill begins here, to when it runs, with which Azure's does."""
    begun = history.last("up_started")
    assert begun is not None
    return billed_from - begun.time


def _increment_s(azure: Emulator) -> float:
    """A minute of the cloud's, to which a bill is rounded up."""
    return 60.0 / azure.options.time_scale


@pytest.mark.clouds
def test_the_bill_of_twenty_minutes_is_the_meter_s_within_two_percent(
    workspace: Workspace, engine: Engine, azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an increment, and the time of starting up, of which Azure bills nothing; never under it, and at the planned rate."""
    passed_s = 1200.0
    spec = Spec(provider="azure", instance_type=_T4, region="eastus")
    offers = ladder(spec)
    stack = RunStack(spec, workspace, engine, offers)
    later = partial(Closer, now=lambda: time.time() + passed_s)
    monkeypatch.setattr("dayfly.stacks.run_stack.Closer", later)
    with stack:
        (row,) = azure.world.live()
        assert row.since is not None
        running_from, row.since = row.since, row.since - passed_s
    (bill,) = azure.world.bills
    assert bill.seconds > passed_s
    assert stack.receipt is not None
    assert stack.receipt.usd_per_hour == offers[0].usd_per_hour
    extra_s = _increment_s(azure) + _starting_s(journal.read(stack.directory), running_from)
    meter = azure.world.usd()
    most = 0.02 * meter + extra_s * stack.receipt.usd_per_hour / 3600
    assert 0 <= stack.receipt.usd - meter <= most


def _spec(history: journal.History) -> Spec:
    """What was asked for."""
    return Spec(**history.intent["spec"])


def test_a_miss_ends_on_the_next_rung_and_no_secret_is_in_clear(
    workspace: Workspace, engine: Engine, azure: Emulator
) -> None:
    """One is refused after it was accepted, which leaves a failed machine behind, the next one at once; both groups go."""
    azure.fault("AllocationFailed", late=True, only="eastus")
    azure.fault("SkuNotAvailable", only="westus2")
    spec = Spec(provider="azure", instance_type=_T4, spot="prefer")
    stack, told = _climbing(spec, workspace, engine)
    with stack as machine:
        (row,) = azure.world.live()
        assert (machine.region, machine.id) == ("westeurope", row.id.name)
        assert row.is_spot
        secret = (stack.directory / "host_key").read_text().splitlines()[3]
        holders = {file for file in workspace.home.rglob("*") if secret in _text(file)}
        assert holders == {stack.directory / "host_key"}
    missed = [text for text in told if text.startswith("no capacity")]
    assert [
        code in text
        for code, text in zip(("AllocationFailed", "SkuNotAvailable"), missed, strict=True)
    ] == [True, True]
    assert len(azure.world.bills) == 1
    assert azure.world.all() == []
    receipts = [json.loads(file.read_text()) for file in workspace.runs.glob("*/receipt.json")]
    assert sorted(receipt["left"] for receipt in receipts) == [0, 0, 0]


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace") if file.is_file() else ""


@pytest.mark.clouds
def test_what_is_half_made_goes_also_where_the_engine_cannot_delete_it(
    workspace: Workspace, engine: Engine, azure: Emulator
) -> None:
    """Refused in the middle; the plugin's own delete fails, and the API's does it."""
    azure.fault("AuthorizationFailed", type="Microsoft.Network/networkInterfaces")
    azure.world.faults.add(Fault("delete", "", "InternalServerError", times=_TRIES))
    spec = Spec(provider="azure", instance_type=_T4, region="eastus")
    stack = RunStack(spec, workspace, engine, ladder(spec))
    with pytest.raises(ProvisionFailed, match='Code="AuthorizationFailed"') as caught, stack:
        pass
    assert caught.value.kind == "auth"
    assert stack.receipt is not None
    assert (stack.receipt.how, stack.receipt.left) == ("provider", 0)
    assert any("InternalServerError" in note for note in stack.receipt.notes)
    assert azure.world.all() == []
    assert azure.world.usd() == 0.0


@pytest.mark.clouds
@pytest.mark.parametrize("unkept", [False, True], ids=["keeper", "gc"])
def test_a_client_killed_while_its_machine_is_being_made_leaves_nothing(
    clean_environment: Path, engine: Engine, azure: Emulator, unkept: bool
) -> None:
    """The create goes on at Azure; the keeper, or whoever types `dayfly gc`, finds the group by its tag."""
    held = azure.world.faults.add(
        Fault("write", "Microsoft.Compute/virtualMachines", late=True, held=threading.Event())
    )
    assert held.held is not None
    with Client(clean_environment, 0, _SCRIPT) as client:
        run = client.reach("up_started")
        assert held.met.wait(90)
        if unkept:
            client.die_unkept()
        else:
            client.process.kill()
            client.end()
        held.held.set()
        if unkept:
            done = dayfly("gc", "--run", run, "--yes")
            assert done.returncode == 0, done.stdout + done.stderr
        wait_until_closed(clean_environment, run)
    assert azure.world.all() == []
    assert json.loads((clean_environment / "runs" / run / "receipt.json").read_text())["left"] == 0


@pytest.mark.clouds
def test_a_spot_machine_that_is_taken_back_is_tried_again(azure: Emulator, tmp_path: Path) -> None:
    """On another one, and both groups are gone in the end."""
    go = tmp_path / "go"

    @cluster(
        provider="azure", instance_type=_T4, region="eastus", spot=True, retries=1, environment=[]
    )
    def function(go: Path) -> int:
        while not go.exists():
            time.sleep(0.05)
        return 7

    job = function.submit(go)
    until(lambda: job.status() == "run", timeout_s=120)
    (first,) = azure.world.live()
    azure.world.preempt(first.id.text)
    until(lambda: [v for v in azure.world.live() if v.id != first.id] != [], timeout_s=200)
    until(lambda: job.status() == "run", timeout_s=120)
    touched = dayfly("ssh", job.id, "--", f"mkdir -p {go.parent} && touch {go}")
    assert touched.returncode == 0, touched.stderr
    assert job.result(timeout=300) == 7
    job.receipt(timeout=300)
    stories = journal.histories(Context.open().workspace.runs, closed=True)
    lost = next(story for story in stories if story.id in first.id.name)
    assert "preempted" in json.dumps([event.fields for event in lost.events])
    assert len(azure.world.bills) == 2
    assert azure.world.all() == []


@pytest.mark.clouds
def test_two_machines_are_two_and_a_miss_of_one_ends_the_other(
    workspace: Workspace, engine: Engine, azure: Emulator
) -> None:
    """Before the next rung; both are in one network, each with a host key of its own."""
    azure.fault("AllocationFailed", late=True, only="eastus")
    spec = Spec(provider="azure", instance_type=_T4, nodes=2)
    stack = RunStack(spec, workspace, engine, ladder(spec))
    with stack as machine:
        assert machine.region == "westus2"
        history = journal.read(stack.directory)
        names = [f"dayfly-{stack.id}", f"dayfly-{stack.id}-1"]
        assert [each.id for each in history.machines] == names
        assert sorted(each.id.name for each in azure.world.live()) == names
        assert [each.inner_host for each in history.machines] == ["10.77.0.4", "10.77.0.5"]
        assert len({each.host_key for each in history.machines}) == 2
    assert stack.receipt is not None
    assert (stack.receipt.destroyed, stack.receipt.declared, stack.receipt.left) == (10, 10, 0)
    assert azure.world.all() == []


@pytest.mark.clouds
@pytest.mark.parametrize(
    ("code", "asked", "place", "size"),
    [
        ("QuotaExceeded", {"instance_type": _T4}, "westus2", _T4),
        (
            "OperationNotAllowed",
            {"gpu": ["T4:1", "A100:1"], "region": "eastus"},
            "eastus",
            "Standard_NC24ads_A100_v4",
        ),
    ],
    ids=["region", "family"],
)
def test_a_quota_that_is_used_up_leads_on_to_what_it_does_not_hold_for(
    workspace: Workspace,
    engine: Engine,
    azure: Emulator,
    *,
    code: str,
    asked: dict[str, Any],
    place: str,
    size: str,
) -> None:
    """That of a region to another region; that of a family of machines to another one, past its own larger ones."""
    azure.fault(code, only="eastus")
    spec = Spec(provider="azure", **asked)
    stack, told = _climbing(spec, workspace, engine)
    with stack as machine:
        (row,) = azure.world.live()
        assert (machine.region, machine.instance_type) == (place, size)
        assert (row.location, row.properties["hardwareProfile"]["vmSize"]) == (place, size)
    (missed,) = [text for text in told if text.startswith("no quota")]
    assert f'Code="{code}"' in missed
    assert len(azure.world.bills) == 1
    assert azure.world.all() == []
    receipts = [json.loads(file.read_text()) for file in workspace.runs.glob("*/receipt.json")]
    assert sorted((receipt["usd"] > 0, receipt["left"]) for receipt in receipts) == [
        (False, 0),
        (True, 0),
    ]


@pytest.mark.clouds
def test_more_throttling_than_the_plugin_waits_for_is_told_and_leaves_nothing(
    workspace: Workspace, engine: Engine, azure: Emulator
) -> None:
    """It tries the machine four times; what goes on to be throttled then is this side's own look at what is left."""
    spec = Spec(provider="azure", instance_type=_T4, region="eastus")
    stack = RunStack(spec, workspace, engine, ladder(spec))
    fault = azure.fault("TooManyRequests", times=_TRIES)
    azure.world.faults.throttle(2)
    with pytest.raises(ProvisionFailed, match='Code="TooManyRequests"') as caught, stack:
        pass
    assert caught.value.kind == "rate_limit"
    assert fault.times == 0
    assert stack.receipt is not None
    assert (stack.receipt.usd, stack.receipt.left) == (0.0, 0)
    assert azure.world.all() == []
    assert not azure.world.faults.is_throttled()


@pytest.mark.clouds
@pytest.mark.parametrize(
    ("azure", "code", "how"),
    [
        (Options(group_delete_s=8.0), "", "pulumi"),
        (None, "InternalServerError", "pulumi"),
        (None, "ScopeLocked", "provider"),
    ],
    indirect=["azure"],
    ids=["slow", "passing", "lock"],
)
def test_a_group_that_goes_late_or_is_refused_once_is_proved_gone(
    workspace: Workspace, engine: Engine, azure: Emulator, code: str, how: str
) -> None:
    """A delete is waited for, and paid for as long; one that may pass is asked for again by the plugin, any other by the API."""
    spec = Spec(provider="azure", instance_type=_T4, region="eastus")
    stack = RunStack(spec, workspace, engine, ladder(spec))
    with stack as machine:
        (row,) = azure.world.live()
        assert row.id.name == machine.id
        if code:
            azure.world.faults.add(Fault("delete", "", code))
        asked_at = time.time()
    assert azure.world.all() == []
    assert azure.world.events[-1] == ("gone", row.id.text.partition("/providers/")[0])
    assert stack.receipt is not None
    assert (stack.receipt.how, stack.receipt.left) == (how, 0)
    assert any(code in note for note in stack.receipt.notes) == (how == "provider")
    assert stack.receipt.confirmed_at - asked_at >= azure.options.group_delete_s
    assert 0 < azure.world.usd() <= stack.receipt.usd
