"""Runs on emulated EC2 with the real engine and the real boto3: a real machine, zones without capacity, half-made instances; nothing stays."""

from __future__ import annotations

import json
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
from tests.emulators.aws import Aws, Fault

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
    """Key, firewall, instance, all tagged; the bill is no less than the meter's; no secret is readable on this computer meanwhile."""
    stack = RunStack(A10G, workspace, engine, ladder(A10G))
    begun = time.time()
    with stack as machine:
        print("up", time.time() - begun)
        (live,) = cloud.live()
        assert live.id == machine.id
        history = journal.read(stack.directory)
        carried = {tag["key"]: tag["value"] for tag in live.row.get_tags()}
        assert {n: v for n, v in carried.items() if n != "Name"} == history.run.tags
        assert history.field("machine", "firewall") == "22/tcp from 127.0.0.1/32 (this computer's own address)"
        secret = (stack.directory / "host_key").read_text().splitlines()[4]
        kept = {f for f in workspace.home.rglob("*") if f.is_file() and secret in _text(f)}
        assert kept == {stack.directory / "host_key"}
        account = cloud.environment()["AWS_SECRET_ACCESS_KEY"]
        assert account not in "".join(_text(f) for f in workspace.home.rglob("*"))
    print("all", time.time() - begun)
    receipt = stack.receipt
    assert receipt is not None
    print(receipt)
    assert (receipt.destroyed, receipt.left, receipt.how, receipt.notes) == (5, 0, "pulumi", ())
    assert cloud.left() == {}
    assert cloud.dollars() <= receipt.usd
