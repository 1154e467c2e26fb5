"""Budget: what all runs of this computer together may cost in a day or a month; kept before one of them begins."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dayfly.errors import BudgetExceeded, ConfigurationError
from dayfly.infra import providers
from dayfly.infra.units import number, shown
from dayfly.stacks import journal
from dayfly.stacks.bill import Bill
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.settings import Settings
from dayfly.stacks.traces import is_refused

_PERIODS = {"budget_per_day": "%Y-%m-%d", "budget_per_month": "%Y-%m"}


@dataclass(frozen=True)
class Budget:
    """One limit.

    Attributes:
        setting: the name of its setting.
        usd: dollars.
        origin: where it is set.
    """

    setting: str
    usd: float
    origin: str

    @classmethod
    def all_of(cls, settings: Settings) -> tuple[Budget, ...]:
        """Those that are set.

        Raises:
            ConfigurationError: one is no number of dollars above 0.
        """
        found = []
        for name in _PERIODS:
            setting = settings.values.get(name)
            if setting is None:
                continue
            usd = setting.value
            right = isinstance(usd, int | float) and not isinstance(usd, bool)
            if not right or not 0 < number(usd) < float("inf"):
                raise ConfigurationError(
                    f"{name}={shown(usd)} ({setting.origin}) must be a number of dollars above 0; leave it out for no limit"
                )
            found.append(cls(name, float(usd), setting.origin))
        return tuple(found)

    def period(self, moment: float) -> str:
        """The day or the month, of this computer's calendar, of a unix time: "2026-01-31", "2026-01"."""
        return time.strftime(_PERIODS[self.setting], time.localtime(moment))

    def committed_usd(self, histories: Iterable[History], now: float) -> float:
        """Dollars that the runs which were asked for in this period have cost, or may cost until their deadlines.

        Raises:
            ConfigurationError: a run cannot be read, so that nobody knows.
        """
        return sum(
            committed_usd(history, now)
            for history in histories
            if self.period(_asked_for(history)) == self.period(now)
        )


def committed_usd(history: History, now: float) -> float:
    """Dollars that a run has cost, and, while it is open, may cost until its deadline at most."""
    receipt = Receipt.of(history.directory)
    if receipt is not None:
        return receipt.usd
    intent = history.intent
    # On another run's machine it costs nothing of its own, and what was refused was never made.
    if intent.get("machine_of") or is_refused(history) or history.provider not in providers.names():
        return 0.0
    so_far = Bill.of(history, providers.load(history.provider), now).usd
    return max(so_far, float(intent.get("worst_case_usd", 0.0)))


@contextlib.contextmanager
def kept(home: Path, budgets: Sequence[Budget], worst_case_usd: float) -> Iterator[None]:
    """Holds the budgets of a folder of runs until one more run is written down in it.

    Args:
        home: that folder.
        budgets: its limits.
        worst_case_usd: what the run may cost until its deadline.

    Raises:
        BudgetExceeded: with it the runs of a day or a month might cost more than that.
    """
    if not budgets or not worst_case_usd:
        yield
        return
    descriptor = os.open(home / "budget.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Two runs at once must not both be given what is left.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        check(home, budgets, worst_case_usd)
        yield
    finally:
        os.close(descriptor)


def check(home: Path, budgets: Sequence[Budget], worst_case_usd: float) -> None:
    """Refuses a run that might cost more than is left.

    Raises:
        BudgetExceeded: names the budget, what is left of it and how to ask for less.
        ConfigurationError: a run cannot be read, so that nobody knows what is left.
    """
    if not budgets or not worst_case_usd:
        return
    now, histories = time.time(), journal.histories(home / "runs", closed=True)
    for budget in budgets:
        committed = budget.committed_usd(histories, now)
        left = max(0.0, budget.usd - committed)
        if worst_case_usd > left:
            less = f"ask for less with max_cost={left:.2f}" if left >= 0.01 else "wait"
            raise BudgetExceeded(
                f"{budget.setting}=${budget.usd:g} ({budget.origin}): ${committed:.2f} of {budget.period(now)} are spent, or may"
                f" still be by runs that are open, and this one may cost ${worst_case_usd:.2f} until its deadline; {less},"
                " or with max_runtime=, or raise the budget; `dayfly cost` tells what has been spent"
            )


def _asked_for(history: History) -> float:
    """Unix time.

    Raises:
        ConfigurationError: it cannot be read.
    """
    if history.trouble:
        raise ConfigurationError(
            f"run {history.id[:12]} cannot be read ({history.trouble}), so that nobody knows what is left of the budget; mend"
            " that, or take the budget out"
        )
    created = history.intent.get("created")
    return float(created or (history.events[0].time if history.events else 0.0))
