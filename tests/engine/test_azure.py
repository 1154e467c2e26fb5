"""Runs on Azure's emulator with the real engine: one machine, a full region, half-made things, dead clients; nothing stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dayfly.infra.spec import Spec
from dayfly.runtime.call import ladder
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.azure import Emulator

pytestmark = [pytest.mark.engine, pytest.mark.tried("azure", "emulator")]


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator, as the environment tells of it."""
    with Emulator() as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def test_a_run_has_a_group_of_its_own_and_leaves_nothing(
    workspace: Workspace, engine: Engine, azure: Emulator
) -> None:
    """Seven resources, of which the engine deletes one; the bill is the meter's."""
    spec = Spec(provider="azure", instance_type="Standard_NC4as_T4_v3", region="eastus")
    stack = RunStack(spec, workspace, engine, ladder(spec))
    with stack as machine:
        (row,) = azure.world.live()
        assert machine.id == f"dayfly-{stack.id}" == row.id.name
        assert row.body["tags"] == journal.read(stack.directory).run.tags
    receipt = stack.receipt
    assert receipt is not None
    assert (receipt.destroyed, receipt.declared, receipt.left) == (7, 7, 0)
    assert (receipt.how, receipt.notes) == ("pulumi", ())
    assert azure.world.all() == []
    assert [type for act, type in azure.calls if act == "delete"] == [
        "azure-native:resources:ResourceGroup"
    ]
