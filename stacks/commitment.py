"""Commitment: the dollars that a run has cost, and, while it is open, may still cost."""

from __future__ import annotations

from dataclasses import dataclass

from dayfly.infra import providers
from dayfly.stacks import failures
from dayfly.stacks.bill import Bill
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.standing import in_other_home
from dayfly.stacks.traces import is_refused

# A machine whose end has been asked for is gone, and no longer billed, after so long.
_ENDS_S = 600.0


@dataclass(frozen=True)
class Commitment:
    """What one run takes of the budgets.

    Attributes:
        asked_for: unix time.
        usd: dollars that it has cost, or may cost.
        overdue: it is open and has outlived its deadline: it costs more than it was to cost.
    """

    asked_for: float
    usd: float
    overdue: bool

    @classmethod
    def of(cls, history: History, now: float) -> Commitment:
        """Of a run, open or closed, at that unix time."""
        first = history.events[0].time if history.events else 0.0
        return cls(
            float(history.intent.get("created") or first),
            committed_usd(history, now),
            now > history.deadline and not history.closed,
        )


def committed_usd(history: History, now: float) -> float:
    """Of a closed run what its receipt says, of an open one what it may cost until its deadline at most.

    A run on the machine of another one costs nothing of its own, and what was refused no more than what was made all the
    same. One that another home has in hand is that one's.
    """
    receipt = Receipt.of(history.directory)
    if receipt is not None:
        return receipt.usd
    elsewhere = history.intent.get("machine_of") or in_other_home(history)
    if elsewhere or history.provider not in providers.names():
        return 0.0
    provider = providers.load(history.provider)
    so_far = Bill.of(history, provider, now).usd
    if _is_refused(history):
        return so_far
    worst = max(so_far, float(history.intent.get("worst_case_usd", 0.0)))
    return min(worst, Bill.of(history, provider, now + _ENDS_S).usd) if _ends(history) else worst


def _is_refused(history: History) -> bool:
    """Also a second before its engine has ended over it, when the next rung of its ladder begins."""
    if is_refused(history):
        return True
    full = failures.of_capacity(history.directory, history.provider)
    return full is not None and history.nodes == 1


def _ends(history: History) -> bool:
    """Whether its teardown has begun, or begins now: the next call comes as soon as this one has its value."""
    last = history.last("closing", "result_fetched", "kept", "detached", "reopened")
    if last is None or last.name not in ("closing", "result_fetched"):
        return False
    keeps = history.intent.get("spec", {}).get("keep") is not None
    return last.name == "closing" or not keeps
