"""What a run is, from its journal alone: who has it in hand, what it is owed, and until when. Standard library only."""

from __future__ import annotations

import time
from typing import Any, Literal

from dayfly.infra.units import human_seconds
from dayfly.stacks import journal, kept
from dayfly.stacks.journal import History

Status = Literal[
    "RUNNING", "CLOSING", "HELD", "KEPT", "EXPIRED", "ORPHAN", "FOREIGN", "CLOSED", "UNREADABLE"
]
# A living client enforces its own deadline and needs a moment for it.
_CLIENT_GRACE_S, _LEAST_GRACE_S, _GRACE_SHARE = 300.0, 30.0, 0.1
CLIENT_LIVES = "its client is alive"


def standing(history: History, now: float) -> tuple[Status, str]:
    """What a run is, and why."""
    if history.closed:
        return "CLOSED", "proved gone"
    if history.trouble:
        return "UNREADABLE", f"its journal cannot be read ({history.trouble}); make it readable"
    if not history.intent:
        return "ORPHAN", "its journal has no readable intent"
    return in_hand(history, now) or _elsewhere(history, now) or _without_client(history, now)


def in_hand(history: History, now: float) -> tuple[Status, str] | None:
    """What a run is that somebody alive takes care of; None where nobody does."""
    closing = history.last("closing", "leak_risk", "detached")
    overdue = now >= history.deadline + _grace_s(history)
    if (
        closing is not None
        and closing.name == "closing"
        and journal.is_alive(closing.fields.get("by", {}))
        and not overdue
    ):
        return "CLOSING", f"process {closing.fields['by']['pid']} is destroying it"
    if closing is not None and closing.name == "leak_risk":
        return "EXPIRED", f"its teardown could not prove absence: {closing.fields.get('reason')}"
    if kept.turn(history) is not None and history.reopened is None:
        return _kept_in_hand(history, now, overdue=overdue)
    # Its client has taken leave of a run that was closed.
    if history.client_alive() and not overdue and history.reopened is None:
        return "RUNNING", CLIENT_LIVES
    return None


def _kept_in_hand(history: History, now: float, *, overdue: bool) -> tuple[Status, str] | None:
    """What a run is whose own call is over, and whose machine waits for the next one or is used by it."""
    until = kept.until(history)
    if until is not None and now < until:
        return "KEPT", kept.described(history)
    if kept.has_user(history) and not overdue:
        return "RUNNING", f"run {kept.user(history)[:12]} is on its machine"
    last = kept.turn(history)
    taken = last is not None and last.name == "attached" and not overdue
    return ("RUNNING", CLIENT_LIVES) if taken and history.client_alive() else None


def _elsewhere(history: History, now: float) -> tuple[Status, str] | None:
    """What a run is whose client works on another computer: only there can be told whether that lives."""
    late = now >= history.deadline and not is_part_of_another(history)
    if not is_elsewhere(history) or late:
        return None
    where = f"its client is on another computer, {_client(history).get('host')}"
    last = history.turn
    if last is not None and last.fields.get("closed"):
        return "ORPHAN", "another computer had it in hand, and has closed it"
    if in_other_home(history):
        return "RUNNING", f"{where}; `dayfly attach {history.id[:12]}` takes it in hand here"
    return "RUNNING", f"{where}: see to it there"


def _grace_s(history: History) -> float:
    """A run of minutes must not be let live for minutes more."""
    created = history.intent.get("created")
    if created is None:
        return _CLIENT_GRACE_S
    share = (history.deadline - float(created)) * _GRACE_SHARE
    return min(_CLIENT_GRACE_S, max(_LEAST_GRACE_S, share))


def _without_client(history: History, now: float) -> tuple[Status, str]:
    if now >= history.deadline:
        return "EXPIRED", "its deadline has passed"
    if history.plain:
        return "RUNNING", f"brought up by the pulumi CLI as stack {history.stack}"
    if kept.is_kept(history):
        return _kept_no_longer(history)
    return _given_up(history) or _held(history, now)


def _given_up(history: History) -> tuple[Status, str] | None:
    """What a run is that nobody waits for; None where there is, or may be, a result to hold."""
    if history.reopened is not None:
        return "ORPHAN", "something of it was there after it had been proved gone"
    asked, lost = history.last("cancelled", "attached"), history.last("instance_lost", "attached")
    if asked is not None and asked.name == "cancelled":
        return "ORPHAN", "its end was asked for, and who asked is gone"
    if not history.started or history.last("never_started") is not None:
        return "ORPHAN", "its client died before the function was started"
    if lost is not None and lost.name == "instance_lost":
        return "EXPIRED", f"its machine is {lost.fields.get('state')}"
    if history.last("acknowledged") is not None:
        return "ORPHAN", "its client died after the result had come back"
    return None


def _kept_no_longer(history: History) -> tuple[Status, str]:
    if kept.until(history) is not None:
        return "EXPIRED", "it was kept for the next call of its Spec as long as was asked for"
    return "ORPHAN", f"run {kept.user(history)[:12]}, which had its machine, is closed"


def _held(history: History, now: float) -> tuple[Status, str]:
    until = hold_until(history)
    let_go = is_let_go(history)
    if now >= until:
        return "EXPIRED", (
            "its client has let go of it, and what it left is on this computer"
            if let_go
            else "its result was held as long as was asked for"
        )
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    if let_go and history.last("held") is None:
        return (
            "HELD",
            f"its client has let go of it; `dayfly attach {history.id[:12]}`, or it ends with its function, {clock} at"
            " the latest",
        )
    hold = human_seconds(float(history.intent.get("spec", {}).get("hold", 0.0)))
    where = "; its result is on this computer" if history.last("result_fetched") else ""
    return (
        "HELD",
        f"its client is gone{where}; `dayfly attach {history.id[:12]}` for {hold} after its end, {clock} at the latest",
    )


def hold_until(history: History) -> float:
    """Unix time until which the result of a run waits on its machine: never past the deadline, and no longer than until
    the keeper has brought it home where its client has let go of it."""
    held = history.last("held")
    if held is not None and held.fields.get("with_log") and is_let_go(history):
        return min(history.deadline, held.time)
    ended = history.last("job_ended")
    if ended is None:
        return history.deadline
    hold_s = float(history.intent.get("spec", {}).get("hold", 0.0))
    return min(history.deadline, float(ended.fields.get("ended", ended.time)) + hold_s)


def is_let_go(history: History) -> bool:
    """Whether its client has left it to the keeper because that was asked for, and nobody has taken it in hand since."""
    last = history.last("detached", "attached")
    return last is not None and last.name == "detached" and bool(last.fields.get("wished"))


def is_elsewhere(history: History) -> bool:
    """Whether the client that last had the run in hand works on another computer that shares this folder, or the state
    backend: whether it lives cannot be told here, so nothing is done about the run by itself."""
    client = _client(history)
    return in_other_home(history) or (bool(client) and not journal.is_same_computer(client))


def in_other_home(history: History) -> bool:
    """Whether another home has it in hand, which has a journal of its own for it."""
    last = history.turn
    home = None if last is None else last.fields.get("home")
    return bool(home) and home != journal.home_of(history.directory)


def was_in_hand(history: History) -> bool:
    """Whether this home has started it, or has had it in hand: then its deadline is this home's to see to, too."""
    own = journal.home_of(history.directory)
    turns = (event for event in history.events if event.name in ("intent", "attached"))
    return bool(own) and any(event.fields.get("home") == own for event in turns)


def is_only_seen(history: History) -> bool:
    """Whether another home has a run in hand that this one has only looked at: it may have no account where that is."""
    return in_other_home(history) and not was_in_hand(history)


def is_lent(history: History, status: Status) -> bool:
    """Whether another home has a run in hand that this one has had before, and may have closed it since."""
    return status == "RUNNING" and in_other_home(history) and was_in_hand(history)


def is_part_of_another(history: History) -> bool:
    """Whether its machine is the very computer that it was started on, and that is not this one."""
    started_in_a_home = history.intent.get("home")
    client = (history.intent.get("client") or {}) if started_in_a_home else _client(history)
    bound = bool(history.intent.get("same_computer"))
    return bound and bool(client) and not journal.is_same_computer(client)


def _client(history: History) -> dict[str, Any]:
    last = history.turn
    if last is None:
        return {}
    return last.fields.get("by" if last.name == "detached" else "client") or {}
