"""The preview of a Spec: it waits for its place among engine operations, but not for ever."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from dayfly.errors import ProvisionFailed
from dayfly.infra.spec import Spec
from dayfly.runtime import preview
from dayfly.runtime.context import Context
from dayfly.stacks import slots
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
