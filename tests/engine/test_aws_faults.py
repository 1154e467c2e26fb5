"""What EC2 refuses, throttles or is slow at, with the real engine: the next rung or a clear error, and nothing stays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest

from dayfly.errors import ProvisionFailed
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.aws import Aws, Fault

pytestmark = [pytest.mark.engine, pytest.mark.clouds, pytest.mark.tried("aws", "emulator")]
_ANYWHERE = Spec(provider="aws", instance_type="g5.xlarge", max_runtime="1h")
_DENIED = "You are not authorized to perform this operation."
_THROTTLED = "Request limit exceeded."


@pytest.fixture
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account of rows only; with a parameter an end takes so many seconds there."""
    with Aws(machines=False, ending_s=getattr(request, "param", 0.0)) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def _receipts(workspace: Workspace) -> list[tuple[int, bool]]:
    """Of each rung that was tried: what is left, and whether it cost anything."""
    found = [json.loads((each / "receipt.json").read_text()) for each in workspace.runs.iterdir()]
    return sorted((each["left"], each["usd"] > 0) for each in found)


def test_a_quota_that_is_used_up_goes_on_in_another_region(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """In EC2's own words; a quota is one region's, and the rung that was refused costs nothing."""
    refusal = (
        "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that the"
        " specified instance type belongs to."
    )
    cloud.fault(Fault("RunInstances", "VcpuLimitExceeded", refusal))
    told: list[Event] = []
    with RunStack(_ANYWHERE, workspace, engine, ladder(_ANYWHERE), observe=told.append) as machine:
        assert machine.region == "us-east-2"
        assert [each.id for each in cloud.live()] == [machine.id]
    texts = [str(event.fields.get("text", "")) for event in told if event.name == "progress"]
    assert any("quota" in text and "VcpuLimitExceeded" in text for text in texts), texts
    assert _receipts(workspace) == [(0, False), (0, True)]
    assert cloud.left() == {}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("RunInstances", "UnauthorizedOperation", _DENIED, 403), "auth"),
        (Fault("RunInstances", "RequestLimitExceeded", _THROTTLED, 503, times=50), "rate_limit"),
    ],
    ids=["auth", "throttled"],
)
def test_a_launch_that_is_not_allowed_or_throttled_ends_with_its_reason(
    workspace: Workspace, engine: Engine, cloud: Aws, fault: Fault, kind: str
) -> None:
    """Key and group have been made by then; they go, and no machine was."""
    # One of its own: meeting it changes it.
    cloud.fault(dataclasses.replace(fault))
    stack = RunStack(_ANYWHERE, workspace, engine, ladder(_ANYWHERE))
    with pytest.raises(ProvisionFailed, match=f"{fault.code}.*{fault.message}") as caught, stack:
        pass
    assert caught.value.kind == kind
    assert cloud.calls("ImportKeyPair") > 0
    assert cloud.events("launch_accepted") == []
    assert set(_receipts(workspace)) == {(0, False)}
    assert cloud.left() == {}


@pytest.mark.parametrize("cloud", [8.0], indirect=True)
def test_a_machine_that_ends_slowly_is_proved_gone_when_it_is(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """Seconds pass from the request until EC2 says `terminated`: the group that it holds is deleted after that, and then there is a receipt."""
    stack = RunStack(_ANYWHERE, workspace, engine, ladder(_ANYWHERE))
    with stack:
        pass
    (asked,), (gone,) = cloud.events("ended"), cloud.events("terminated")
    assert gone["at"] - asked["at"] >= 8.0
    assert stack.receipt is not None
    assert stack.receipt.confirmed_at >= gone["at"]
    assert (stack.receipt.left, stack.receipt.how, cloud.left()) == (0, "pulumi", {})


@pytest.mark.parametrize(
    "fault",
    [
        Fault("TerminateInstances", "RequestLimitExceeded", _THROTTLED, 503),
        # Oftener than the plugin tries.
        Fault("TerminateInstances", "RequestLimitExceeded", _THROTTLED, 503, times=3),
        Fault("DeleteSecurityGroup", "DependencyViolation", "resource has a dependent object"),
        Fault("DeleteKeyPair", "InternalError", "An internal error has occurred", 500, times=2),
    ],
    ids=["terminate-once", "terminate-often", "group", "key"],
)
def test_an_end_that_is_refused_is_asked_for_again(
    workspace: Workspace, engine: Engine, cloud: Aws, fault: Fault
) -> None:
    """By the plugin, or after it by Dayfly: there is a receipt, and nothing is left of what it is for."""
    stack = RunStack(_ANYWHERE, workspace, engine, ladder(_ANYWHERE))
    with stack:
        cloud.fault(dataclasses.replace(fault))
    refused = [(each["action"], each["code"]) for each in cloud.events("refused")]
    assert refused == [(fault.action, fault.code)] * fault.times
    assert stack.receipt is not None
    assert stack.receipt.left == 0
    assert cloud.left() == {}
