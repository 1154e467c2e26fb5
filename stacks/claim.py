"""Claim: how a call takes the machine that an earlier one of the same Spec has left up; one caller gets it, or none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dayfly.errors import RunBusy
from dayfly.infra import spec_fields
from dayfly.stacks import journal, kept
from dayfly.stacks.journal import History
from dayfly.stacks.run_lock import locked
from dayfly.stacks.standing import is_elsewhere, standing
from dayfly.stacks.workspace import Workspace

if TYPE_CHECKING:
    from dayfly.infra.spec import Spec


def fingerprint(spec: Spec) -> str:
    """SHA-256 of everything in a Spec that concerns the machine; calls with the same one can follow each other on it."""
    asked = {
        name: value for name, value in spec.as_dict().items() if name not in spec_fields.OF_THE_CALL
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def claim(
    workspace: Workspace,
    spec: Spec,
    run_id: str,
    report: Callable[[str], None] = lambda _: None,
    now: Callable[[], float] = time.time,
    *,
    allows: Callable[[History], bool] = lambda _: True,
) -> History | None:
    """Takes a machine for a run, for good: it is handed on by that run, or destroyed with it.

    Of a machine half of whose time is over the end is asked for instead: the call might need more than is left.

    Args:
        workspace: where runs are kept.
        spec: what the run asks for.
        run_id: the run.
        report: told of a machine that is not taken.
        now: the wall clock.
        allows: says whether a machine may be taken.

    Returns:
        The run whose machine it is; None where none is kept.
    """
    wanted = fingerprint(spec)
    fitting = [
        history
        for history in journal.histories(workspace.runs)
        if _is_free(history, workspace, wanted, now()) and allows(history)
    ]
    for history in sorted(fitting, key=lambda found: kept.until(found) or 0.0, reverse=True):
        # Whoever holds the lock takes it, or destroys it.
        with contextlib.suppress(RunBusy), locked(history.directory, wait_s=0.0):
            fresh = journal.read(history.directory)
            if not _is_free(fresh, workspace, wanted, now()):
                continue
            if _is_half_over(fresh, now()):
                journal.append(fresh.directory, "cancelled", by=journal.myself(), why="half over")
                report(
                    f"the machine of run {fresh.id[:12]}, which was kept, has less than half of its max_runtime left: it is"
                    " destroyed, and another is made"
                )
                continue
            journal.append(fresh.directory, "claimed", run=run_id, by=journal.myself())
            return fresh
    return None


def _is_free(history: History, workspace: Workspace, wanted: str, now: float) -> bool:
    intent = history.intent
    return (
        standing(history, now)[0] == "KEPT"
        and not is_elsewhere(history)
        and intent.get("fingerprint") == wanted
        and intent.get("owner") == workspace.owner
        and intent.get("backend") == workspace.backend
        and history.machine is not None
    )


def _is_half_over(history: History, now: float) -> bool:
    return history.deadline - now < now - float(history.intent.get("created") or 0.0)
