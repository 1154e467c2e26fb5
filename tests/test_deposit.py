"""What another computer needs is kept beside the state while a function runs, behind its client's back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import BackendFailed
from dayfly.runtime import deposit
from dayfly.runtime.deposit import Deposit
from dayfly.stacks import beside, journal
from dayfly.stacks.beside import is_wanted
from dayfly.stacks.workspace import Workspace
from tests import homes, runs


class _Backend:
    """Keeps at once, or fails; tells what it was asked."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble, self.asked = trouble, 0

    def keep(self, _directory: Path, *, unless: Callable[[], bool]) -> bool:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return not unless()


def _deposit(workspace: Workspace, backend: _Backend, warnings: list[str] | None = None) -> Deposit:
    directory = workspace.directory(runs.opened(workspace))
    told = warnings if warnings is not None else list[str]()
    made: Any = backend
    return Deposit(made, directory, told.append)


def test_whoever_detaches_has_it_done_at_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And knows then whether another computer can attach."""
    monkeypatch.setattr(deposit, "_SETTLE_S", 3600.0)
    made = _deposit(workspace, backend := _Backend())
    made.begin()
    assert backend.asked == 0
    assert made.wait(30)
    assert (backend.asked, made.kept) == (1, True)


def test_a_function_that_has_ended_by_then_costs_the_engine_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to attach to."""
    monkeypatch.setattr(deposit, "_SETTLE_S", 3600.0)
    made = _deposit(workspace, _Backend())
    made.begin()
    made.over()
    assert not made.wait(30)


def test_without_anybody_s_word_it_is_done_a_moment_later(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client may be killed at any time."""
    monkeypatch.setattr(deposit, "_SETTLE_S", 0.0)
    done = threading.Event()
    backend = _Backend()
    keep = backend.keep

    def kept(directory: Path, *, unless: Callable[[], bool]) -> bool:
        found = keep(directory, unless=unless)
        done.set()
        return found

    monkeypatch.setattr(backend, "keep", kept)
    _deposit(workspace, backend).begin()
    assert done.wait(30)


def test_what_cannot_be_kept_is_said_once_and_ends_nothing(workspace: Workspace) -> None:
    """The run goes on, and is attached on this computer."""
    warnings: list[str] = []
    made = _deposit(workspace, _Backend(BackendFailed("the bucket is gone")), warnings)
    made.begin()
    assert not made.wait(30)
    (warning,) = warnings
    assert "on this computer only" in warning
    assert "the bucket is gone" in warning
    (directory,) = workspace.runs.iterdir()
    assert journal.read(directory).field("session_not_kept", "reason") == "the bucket is gone"


@pytest.mark.parametrize(
    ("details", "wanted"),
    [({}, True), ({"warm": True}, False), ({"fingerprint": "x"}, False), ({"plain": True}, False)],
)
def test_only_a_call_whose_machine_ends_with_it_is_kept(
    workspace: Workspace, details: dict[str, Any], wanted: bool
) -> None:
    """And only where the state is where others reach it."""
    shared = homes.remote(workspace)
    for home, expected in ((workspace, False), (shared, wanted)):
        directory = home.directory(runs.opened(home, **details))
        assert is_wanted(journal.read(directory)) == expected


def test_a_run_that_is_being_closed_is_not_kept(workspace: Workspace) -> None:
    """Whoever closes it has looked for what there is already."""
    from dayfly.infra import fence

    shared = homes.remote(workspace)
    directory = shared.directory(runs.opened(shared))
    fence.shut(directory)
    # Without an engine nothing could be kept, nor is one asked for.
    assert not beside.Beside(shared, None).keep(directory)
    assert journal.read(directory).last("session_keeping") is None
