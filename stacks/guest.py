"""Guest: a run on the kept machine of another run, and what its end owes to that machine."""

from __future__ import annotations

from dayfly.stacks import journal, kept
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.workspace import Workspace


def host_of(history: History, workspace: Workspace) -> History:
    """The run whose machine a guest is on; one whose directory is lost gets another, so that it can be closed by its tag."""
    directory = workspace.directory(kept.machine_of(history))
    if not directory.is_dir():
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = history.intent.get("owner", workspace.owner)
        journal.append(directory, "found", where=history.provider, owner=owner, by=journal.myself())
    return journal.read(directory)


def has_left(history: History, host: History) -> bool:
    """Whether the machine has been handed on by the guest, or is proved gone, so that it owes that nothing more."""
    if host.last("found") is not None:
        return host.closed
    return kept.has_left(host, history.id)


def receipt(
    history: History, host: History, ended: Receipt | None, now: float, notes: tuple[str, ...]
) -> Receipt:
    """The receipt of a guest, which has cost nothing of its own.

    Args:
        history: the guest's journal.
        host: the run whose machine it was on.
        ended: that one's receipt, where it was closed with the guest.
        now: unix time.
        notes: what was out of the ordinary.
    """
    return Receipt(
        history.id,
        history.provider,
        ended.destroyed if ended else 0,
        ended.declared if ended else 0,
        0,
        now,
        0.0,
        0.0,
        0.0,
        ended.how if ended else "provider",
        notes,
        0.0,
        machine_of=host.id,
    )
