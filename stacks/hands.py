"""Hands: in which home's hands a run is that several may have, as this home's journal has it or learns it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dayfly.errors import DayflyError, UnknownRun
from dayfly.stacks import journal
from dayfly.stacks.beside import Beside, is_wanted
from dayfly.stacks.journal import History


def note(directory: Path, hand: Mapping[str, Any] | None, *, closed: bool = False) -> None:
    """Journals that another home has a run in hand, so that nobody here does anything about it by itself.

    Args:
        directory: the run's own.
        hand: the home and its client; None where all that is known is that it is not this one.
        closed: it has closed the run, too.
    """
    known = hand or {}
    client, home = known.get("client"), known.get("home")
    if not (isinstance(client, dict) and client):
        client = {"host": "another computer"}
    more = {"closed": True} if closed else {}
    journal.append(directory, "attached", client=client, home=str(home or "another"), **more)


def is_anothers(history: History, hand: Mapping[str, Any] | None) -> bool:
    """Whether a run is another home's, whatever this home's journal says.

    Args:
        history: its journal here.
        hand: who has taken it, by its machine or by what is kept beside the state; None where nobody has.
    """
    own = journal.home_of(history.directory)
    first = str(history.intent.get("home") or own)
    return bool((hand or {}).get("home", first) != own)


def may_be_anothers(history: History) -> bool:
    """Whether a run may have been taken by another home without this one's knowing, and be that one's until its deadline."""
    settled = history.last("hand_settled", "attached")
    open_question = settled is None or settled.name != "hand_settled"
    lost = history.last("instance_lost", "leak_risk", "closing") is not None
    early = time.time() < history.deadline
    return is_wanted(history) and history.started and early and open_question and not lost


def is_anothers_by_state(history: History, beside: Beside) -> bool:
    """Whether another home has a run in hand by what is kept beside the state, which is written down then.

    A run of which nothing is kept any more was closed by another home: that is written down, too, and it is closed here.
    Where the backend cannot be asked, the run is as much this home's as its journal says.
    """
    try:
        hand = beside.hand(history.directory)
    except UnknownRun:
        if history.last("session_kept") is not None:
            note(history.directory, None, closed=True)
        return False
    except (DayflyError, OSError):
        return False
    if not is_anothers(history, hand):
        return False
    if not _is_noted(history, hand):
        note(history.directory, hand)
    return True


def _is_noted(history: History, hand: Mapping[str, Any] | None) -> bool:
    """Whether the journal says the same: what is lent is looked at once a minute."""
    last = history.turn
    if last is None or last.name != "attached" or last.fields.get("closed"):
        return False
    return bool(hand and last.fields.get("home") == hand.get("home"))


def settle(directory: Path) -> None:
    """Journals that no other home can take a run in hand any more."""
    with contextlib.suppress(OSError):
        journal.append(directory, "hand_settled")
