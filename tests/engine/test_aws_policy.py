"""The policy of docs/policies/aws.json allows every call that runs, gc and inventory make on emulated EC2, those of the plugin included."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import aws_inventory, providers
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.stacks.engine import Engine
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.aws import Aws
from tests.emulators.until import until
from tests.engine.client import dayfly

pytestmark = [pytest.mark.engine, pytest.mark.clouds, pytest.mark.tried("aws", "emulator")]
_POLICY = Path(__file__).parents[2] / "docs" / "policies" / "aws.json"
_A10G = Spec(provider="aws", gpu="A10G:1", region="us-east-1", max_runtime="1h")
_SPOT = Spec(provider="aws", gpu="A10G:1", region="us-east-1", max_runtime="1h", spot=True)


def _statements() -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = json.loads(_POLICY.read_text())["Statement"]
    return found


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _allowed() -> set[str]:
    return {action for each in _statements() for action in _list(each["Action"])}


def _may_tag() -> set[str]:
    """The operations that may tag what they make."""
    (statement,) = (each for each in _statements() if each["Action"] == "ec2:CreateTags")
    return set(_list(statement["Condition"]["StringEquals"]["ec2:CreateAction"]))


@pytest.fixture(params=[True, False], ids=["default-network", "own-network"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The emulated account with default networks, and without them."""
    with Aws(machines=False, default_vpc=request.param) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def test_every_call_is_one_that_the_policy_allows(
    workspace: Workspace, engine: Engine, cloud: Aws
) -> None:
    """On demand and spot, with networks of the run's own or none; a client that has moved; what gc finds, and what it ends by itself."""
    for spec in (_A10G, _SPOT):
        with RunStack(spec, workspace, engine, ladder(spec)):
            pass
    assert cloud.calls("CancelSpotInstanceRequests") == 1
    assert cloud.calls("DescribeSpotInstanceRequests") == 1
    # Each of three machines: its behaviour when it is made, its protection before it is ended.
    with RunStack(_A10G, workspace, engine, ladder(_A10G)) as machine:
        providers.load("aws").admit(machine.id)
        assert cloud.calls("ModifyInstanceAttribute") == 5

        def ended() -> bool:
            for found in aws_inventory.inventory(None):
                aws_inventory.terminate(found.id)
            return not cloud.left()

        until(ended, timeout_s=30)
    done = dayfly("gc", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = cloud.front.permissions
    assert asked - _allowed() == set()
    assert cloud.front.tagging - _may_tag() == set()
    # That there was something to allow: of each kind of call at least one.
    assert asked >= {"sts:GetCallerIdentity", "ssm:GetParameter", "pricing:GetProducts"}
    assert asked >= {"ec2:CreateTags", "ec2:DescribeNetworkInterfaces", "ec2:DescribeVolumes"}
    assert cloud.calls("CreateVpc") in (0, 3)
    assert ("ec2:DescribeNetworkAcls" in asked) == (cloud.calls("CreateVpc") == 3)


def test_cancelling_the_request_of_a_spot_machine_depends_on_no_tag() -> None:
    """EC2 tags no request for a spot machine with the machine's tags: a statement about them that wanted one would never hold."""
    (statement,) = (
        each for each in _statements() if "ec2:CancelSpotInstanceRequests" in _list(each["Action"])
    )
    assert "Condition" not in statement
    assert statement["Resource"] == "arn:aws:ec2:*:*:spot-instances-request/*"
