"""What the next command owes to clients that died: the keeper, and a word about what it does."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence

from dayfly.errors import DayflyError, KeeperMissing
from dayfly.runtime import entrust
from dayfly.runtime.context import Context
from dayfly.stacks import isolated, journal
from dayfly.stacks.journal import History
from dayfly.stacks.standing import is_let_go, standing


def heal(context: Context, report: Callable[[str], None] = lambda _: None) -> None:
    """Expired and orphaned runs are destroyed in the background, held ones seen to until the end of their hold. What
    cannot be seen to now must not stand in the way of the command."""
    with contextlib.suppress(OSError, DayflyError):
        open_runs = journal.histories(context.workspace.runs)
        left = [history for history in open_runs if _is_left(history)]
        for history in left:
            # One that was let go of on purpose is no news.
            if not is_let_go(history) or standing(history, time.time())[0] != "HELD":
                _tell(history, report)
        if open_runs:
            _see_to(context, open_runs, left, report)


def _is_left(history: History) -> bool:
    status, _ = standing(history, time.time())
    return status in ("EXPIRED", "ORPHAN", "HELD")


def _tell(history: History, report: Callable[[str], None]) -> None:
    status, why = standing(history, time.time())
    gave_up = history.last("keeper_gave_up", "attached")
    if gave_up is not None and gave_up.name == "keeper_gave_up":
        report(
            f"run {history.id[:12]}: the keeper had tried for 24 h and given up ({gave_up.fields['message']}); it tries"
            f" again. Or by hand: dayfly gc --run {history.id[:12]} --yes"
        )
    what = "destroyed then" if status == "HELD" else "being destroyed in the background"
    report(f"run {history.id[:12]} is {status} ({why}); {what}")


def _see_to(
    context: Context,
    open_runs: Sequence[History],
    left: Sequence[History],
    report: Callable[[str], None],
) -> None:
    try:
        entrust.entrust(context.workspace, open_runs, own=False)
    except KeeperMissing as missing:
        report(f"the keeper is not there: {missing}")
        for history in left:
            _act_once(context, history)


def _act_once(context: Context, history: History) -> None:
    """What the keeper would start, started once from here."""
    variables = entrust.belongings(context.workspace, history)
    entrust.STARTED.append(
        isolated.start(
            [sys.executable, "-P", "-m", "dayfly.runtime.tend", history.id],
            cwd=context.workspace.home,
            log=history.directory / "keeper.log",
            environment=context.workspace.bare_environment() | variables,
        )
    )
