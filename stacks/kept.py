"""Kept: a run whose call is over and whose machine waits for the next one; what its journal says of that. Standard library only."""

from __future__ import annotations

import time

from dayfly.stacks import journal
from dayfly.stacks.journal import Event, History

# The latest of these tells what has become of a machine that was kept.
_TURNS = ("kept", "claimed", "closing", "cancelled", "attached")


def turn(history: History) -> Event | None:
    """What has last been done about a machine that was kept once: "kept", "claimed", "closing", "cancelled" or "attached";
    None for a run whose machine never was."""
    return None if history.last("kept") is None else history.last(*_TURNS)


def is_kept(history: History) -> bool:
    """Whether its call is over and its machine was kept, so that its own client has nothing more to do with it."""
    last = turn(history)
    return last is not None and last.name in ("kept", "claimed")


def until(history: History) -> float | None:
    """Unix time until which the machine waits for the next call; None where it does not."""
    last = turn(history)
    return None if last is None or last.name != "kept" else float(last.fields["until"])


def user(history: History) -> str:
    """The run that has taken the machine, "" where none has it."""
    last = turn(history)
    return "" if last is None or last.name != "claimed" else str(last.fields["run"])


def has_user(history: History) -> bool:
    """Whether the run that has taken the machine is open, or about to be written down by a process that lives."""
    taken = history.last("claimed")
    if not user(history) or taken is None:
        return False
    directory = history.directory.with_name(user(history))
    if directory.is_dir():
        return not journal.is_closed(directory)
    return journal.is_alive(taken.fields.get("by", {}))


def has_left(history: History, run: str) -> bool:
    """Whether a machine is no longer that of the run which had taken it: it was handed on since, or never was."""
    for event in reversed(history.events):
        if event.name == "kept":
            return True
        if event.name == "claimed" and event.fields.get("run") == run:
            return False
    return True


def described(history: History) -> str:
    """Until when it waits, at what price, and how to end that, in one sentence."""
    end = until(history) or 0.0
    rate = float(history.field("kept", "usd_per_hour", 0.0))
    failed = ", since its call has failed" if history.field("kept", "failed") else ""
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end))
    return (
        f"kept until {clock} for the next call of its Spec{failed}, ${rate:g}/h;"
        f" `dayfly gc --run {history.id[:12]} --yes` ends it now"
    )


def machine_of(history: History) -> str:
    """The run whose kept machine a run is on, "" where it has one of its own."""
    return str(history.intent.get("machine_of") or "")
