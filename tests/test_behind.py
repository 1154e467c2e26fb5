"""A rung that had no capacity is closed beside the next one, and not in its way."""

from __future__ import annotations

import time

from dayfly.stacks import journal
from dayfly.stacks.behind import Behind
from dayfly.stacks.workspace import Workspace
from tests import runs


def _closed(workspace: Workspace, run_id: str) -> bool:
    return (workspace.directory(run_id) / journal.RECEIPT).exists()


def test_the_teardown_begins_when_the_next_machine_was_asked_for(workspace: Workspace) -> None:
    """Its requests would take the turns of those that the next launch needs."""
    run_id = runs.opened(workspace)
    behind = Behind(workspace, None, run_id, None, lambda _: None)
    behind.start()
    time.sleep(0.3)
    assert not _closed(workspace, run_id)
    behind.release()
    until = time.monotonic() + 20
    while not _closed(workspace, run_id):
        assert time.monotonic() < until
        time.sleep(0.02)
    behind.finish()


def test_whoever_waits_for_it_waits_for_nothing_else(workspace: Workspace) -> None:
    """Where there is no next machine."""
    run_id = runs.opened(workspace)
    behind = Behind(workspace, None, run_id, None, lambda _: None)
    behind.start()
    began = time.monotonic()
    behind.finish()
    assert _closed(workspace, run_id)
    assert time.monotonic() - began < 20
