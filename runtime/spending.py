"""Spending: what the runs of this computer have cost, from their receipts and, where they are open, from their clocks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dayfly.infra import providers
from dayfly.stacks.bill import Bill
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt

# What expenses are added up by.
NAMES = ("day", "provider", "function")


@dataclass(frozen=True)
class Expense:
    """What one run has cost.

    Attributes:
        run: its id.
        day: on which it was asked for, on this computer's calendar, "2026-01-31".
        provider: where.
        function: what ran.
        minutes: billed, or so far.
        usd: dollars, or so far.
        open: it goes on costing.
        at_most: the answer to its launch was lost: there may have been no machine, and never an earlier one.
    """

    run: str
    day: str
    provider: str
    function: str
    minutes: float
    usd: float
    open: bool
    at_most: bool

    @classmethod
    def of(cls, history: History, now: float) -> Expense | None:
        """The expense of a run; None for one that launched nothing."""
        receipt = Receipt.of(history.directory)
        intent = history.intent
        if receipt is None:
            minutes, usd, at_most = _so_far(history, now)
        else:
            minutes, usd, at_most = receipt.minutes, receipt.usd, receipt.at_most
        if not minutes:
            return None
        moment = float(intent.get("created") or history.events[0].time)
        function = str(intent.get("job_name") or intent.get("function") or "")
        return cls(
            history.id,
            time.strftime("%Y-%m-%d", time.localtime(moment)),
            history.provider or (receipt.provider if receipt else ""),
            function or (f"stack {history.stack}" if history.plain else ""),
            minutes,
            usd,
            receipt is None,
            at_most,
        )


@dataclass(frozen=True)
class Total:
    """The sum of several expenses.

    Attributes:
        name: what they have in common.
        runs: how many.
        minutes: billed.
        usd: dollars.
    """

    name: str
    runs: int
    minutes: float
    usd: float

    @classmethod
    def of(cls, name: str, expenses: Sequence[Expense]) -> Total:
        """Adds up."""
        return cls(
            name,
            len(expenses),
            sum(expense.minutes for expense in expenses),
            sum(expense.usd for expense in expenses),
        )


@dataclass(frozen=True)
class Spending:
    """All expenses since a day."""

    since: str
    expenses: tuple[Expense, ...]

    @classmethod
    def of(cls, histories: Iterable[History], now: float, since: float = 0.0) -> Spending:
        """What was asked for at `since` or later.

        Args:
            histories: all runs.
            now: unix time, to which the clocks of open runs have come.
            since: unix time.
        """
        found = [
            Expense.of(history, now)
            for history in histories
            if history.events and float(history.intent.get("created") or 0.0) >= since
        ]
        day = time.strftime("%Y-%m-%d", time.localtime(since)) if since else ""
        return cls(day, tuple(expense for expense in found if expense is not None))

    @property
    def total(self) -> Total:
        """The sum of all."""
        return Total.of("total", self.expenses)

    @property
    def at_most(self) -> tuple[Expense, ...]:
        """Those whose launch was never answered: what they cost is not more than is said."""
        return tuple(expense for expense in self.expenses if expense.at_most)

    def by(self, name: str) -> list[Total]:
        """Sums by "day", "provider" or "function", in the order of their names."""
        groups: dict[str, list[Expense]] = {}
        for expense in self.expenses:
            groups.setdefault(str(getattr(expense, name)), []).append(expense)
        return [Total.of(key, groups[key]) for key in sorted(groups)]

    def as_dict(self, by: Sequence[str] = NAMES) -> dict[str, Any]:
        """Plain JSON values, with the sums by these."""
        return {
            "since": self.since or None,
            "total": dataclasses.asdict(self.total),
            **{f"by_{name}": [dataclasses.asdict(total) for total in self.by(name)] for name in by},
            "open": [expense.run for expense in self.expenses if expense.open],
            "at_most": [expense.run for expense in self.at_most],
            "runs": [dataclasses.asdict(expense) for expense in self.expenses],
        }


def _so_far(history: History, now: float) -> tuple[float, float, bool]:
    """Minutes and dollars of an open run, and whether its launch was never answered."""
    if history.provider not in providers.names():
        return 0.0, 0.0, False
    bill = Bill.of(history, providers.load(history.provider), now)
    return bill.billed_s / 60, bill.usd, bill.at_most
