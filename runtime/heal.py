"""What the next command owes to clients that died."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from dayfly.errors import DayflyError
from dayfly.runtime.context import Context
from dayfly.stacks import gc, journal
from dayfly.stacks.journal import History


def heal(context: Context, report: Callable[[str], None] = lambda _: None) -> None:
    """Expired and orphaned runs are destroyed in the background; held ones get a detached `dayfly gc` for the end of
    their hold. What cannot be seen to now must not stand in the way of the command."""
    with contextlib.suppress(OSError, DayflyError):
        now = time.time()
        for history in journal.histories(context.workspace.runs):
            status, why = gc.standing(history, now)
            if status in ("EXPIRED", "ORPHAN", "HELD") and not _seen_to(history):
                _see_to(context, history, status, why, report)


def _seen_to(history: History) -> bool:
    scheduled = history.last("gc_scheduled")
    return scheduled is not None and journal.is_alive(scheduled.fields["by"])


def _see_to(
    context: Context, history: History, status: str, why: str, report: Callable[[str], None]
) -> None:
    at = gc.hold_until(history) if status == "HELD" else None
    gc.start_detached(context.workspace, history.id, at=at)
    what = "destroyed then" if at else "being destroyed in the background"
    report(f"run {history.id[:12]} is {status} ({why}); {what}")
