"""The preview of a Spec: it waits for its place among engine operations, but not for ever."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dayfly.errors import ProvisionFailed
from dayfly.infra.ingress import PRIVATE_VARIABLE
from dayfly.infra.spec import Spec
from dayfly.runtime import preview
from dayfly.runtime.context import Context
from dayfly.stacks import isolated, slots
from dayfly.stacks.engine import Engine
from tests.runs import OFFER


def test_a_preview_that_never_gets_a_place_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hung operations of other runs must not keep it for ever; nothing was started."""
    monkeypatch.setattr(preview, "_TIMEOUT_S", 0.1)
    context = Context.open()
    engine = Engine(Path("/nowhere/pulumi"), "3.250.0", "path")
    with contextlib.ExitStack() as held:
        for _ in range(slots.slot_count()):
            assert held.enter_context(context.workspace.operation_slot()) is not None
        with pytest.raises(ProvisionFailed, match=r"kept every place.*dayfly ps"):
            preview.resources(context, engine, Spec(), OFFER)


def test_a_preview_opens_nothing_and_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy ends a run where this computer's own address cannot be found out, and no plan."""
    given = dict[str, str]()

    def run(*_: Any, environment: Mapping[str, str], **__: Any) -> NoReturn:
        given.update(environment)
        raise ProvisionFailed("no further")

    monkeypatch.setattr(isolated, "run", run)
    context = Context.open()
    workspace = dataclasses.replace(context.workspace, private_ingress=True)
    engine = Engine(Path("/nowhere/pulumi"), "3.250.0", "path")
    assert PRIVATE_VARIABLE in workspace.environment(engine, "")
    private = context._replace(workspace=workspace)
    with pytest.raises(ProvisionFailed, match="no further"):
        preview.resources(private, engine, Spec(), OFFER)
    assert PRIVATE_VARIABLE not in given
    assert "PULUMI_HOME" in given
