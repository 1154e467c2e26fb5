"""What dead clients left behind, destroyed and proved gone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from dayfly.stacks import hands, journal, latecomers
from dayfly.stacks.beside import Beside
from dayfly.stacks.census import Finding, has_ended
from dayfly.stacks.closer import Closer, LeftAlone
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.standing import in_hand, in_other_home, standing
from dayfly.stacks.workspace import Workspace


def doomed(
    findings: Sequence[Finding],
    *,
    held: bool = False,
    kept: bool = False,
    foreign: bool = False,
    closing: bool = False,
) -> list[Finding]:
    """Those that may be destroyed without asking their client: expired and orphaned ones; held and kept ones, and those
    of other owners, only if asked; with `closing` also those that somebody is destroying now, who is then waited for."""
    extra = {"HELD": held, "KEPT": kept, "FOREIGN": foreign, "CLOSING": closing}
    statuses = {"EXPIRED", "ORPHAN", *(status for status, wanted in extra.items() if wanted)}
    return [finding for finding in findings if finding.status in statuses]


def destroy(
    workspace: Workspace,
    engine: Engine | None,
    finding: Finding,
    report: Callable[[str], None],
    *,
    linger: Callable[[float], None] = lambda _: None,
) -> Receipt | None:
    """Destroys one finding and proves it gone, unless somebody has taken it in hand since it was found.

    Args:
        workspace: where runs are kept.
        engine: the Pulumi CLI, if there is one.
        finding: what to destroy.
        report: told each step in a sentence.
        linger: told how long a late launch has to be waited for; what it raises leaves it to others.

    Returns:
        The receipt; None for what is somebody's now.

    Raises:
        LeakRisk: absence could not be proved.
    """
    if finding.history is not None:
        launched_with = as_launched(workspace, journal.read(finding.history.directory))
        closer = Closer(launched_with, engine, report, linger=linger)
        beside = Beside(launched_with, engine)
        try:
            return closer.close(finding.run, unless=lambda now: _is_spared(finding, now, beside))
        except LeftAlone:
            report(
                f"run {finding.run[:12]} has been taken in hand meanwhile, or lives; it is left alone"
            )
            return None
    return _destroy_lost(workspace, engine, finding, report)


def _is_spared(finding: Finding, history: History, beside: Beside) -> bool:
    """Whether it has been taken in hand, here or by another home, or is held after all: it was found EXPIRED for want of a
    machine, which is there."""
    now = time.time()
    hand = in_hand(history, now)
    if hand is not None and hand[0] == "RUNNING":
        return True
    if finding.status != "EXPIRED":
        return False
    status, _ = standing(history, now)
    # As it has been written down since; nobody need be asked for that.
    if status == "RUNNING" and in_other_home(history):
        return True
    if hands.may_be_anothers(history) and hands.is_anothers_by_state(history, beside):
        return True
    return status == "HELD" and not has_ended(history, now)


def _destroy_lost(
    workspace: Workspace, engine: Engine | None, finding: Finding, report: Callable[[str], None]
) -> Receipt:
    """A directory of its own makes it a run whose journal is lost: closed by its tag, at every provider.

    One that is closed is opened again: its receipt tells nothing of what is there now.
    """
    directory = workspace.directory(finding.run)
    directory.mkdir(mode=0o700, exist_ok=True)
    if not latecomers.reopen(directory, finding.provider, finding.found):
        where = finding.provider or "state backend"
        journal.append(directory, "found", where=where, owner=finding.owner, by=journal.myself())
    whose = dataclasses.replace(workspace, owner=finding.owner or workspace.owner)
    launched_with = as_launched(whose, journal.read(directory))
    return Closer(launched_with, engine, report).close(finding.run)


def as_launched(workspace: Workspace, history: History) -> Workspace:
    """The workspace with the backend and the owner that a run was launched with: settings may have changed since."""
    brought = history.last("brought")
    # How this computer reaches a backend that it shares with the one that started the run is its own setting.
    intent = history.intent | ({} if brought is None else brought.fields)
    names = ("backend", "secrets_provider", "owner")
    return dataclasses.replace(workspace, **{n: intent[n] for n in names if intent.get(n)})
