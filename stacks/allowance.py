"""Allowance: what is left of the budgets, and that no run begins which it does not pay for."""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dayfly.errors import BudgetExceeded, ConfigurationError, RunBusy
from dayfly.infra import cost
from dayfly.infra.offers import Offer
from dayfly.infra.run import is_id
from dayfly.infra.spec import Spec
from dayfly.stacks import file_lock, journal
from dayfly.stacks.budget import Budget
from dayfly.stacks.commitment import Commitment

# No period is longer.
_LONGEST_S = 32 * 86400.0
# Writing a run down takes milliseconds; whoever holds the lock for so long is stopped, or his disk is.
_WAIT_S = 60.0
# Sums of dollars are not exact.
_ROUNDED_USD = 1e-6


def taken_usd(budget: Budget, commitments: Sequence[Commitment], now: float) -> float:
    """Dollars that the runs which were asked for in this period, or are overdue, have cost or may cost."""
    return sum(
        each.usd
        for each in commitments
        if budget.period(each.asked_for) == budget.period(now) or each.overdue
    )


def commitments(home: Path, now: float) -> list[Commitment]:
    """Of the runs that may count: those that are open, and those that were closed within a period.

    Raises:
        ConfigurationError: a run cannot be read, so that nobody knows what is left.
    """
    found = []
    for entry in (home / "runs").iterdir():
        if not is_id(entry.name):
            continue
        with contextlib.suppress(FileNotFoundError):
            if now - (entry / journal.RECEIPT).stat().st_mtime > _LONGEST_S:
                continue
        try:
            found.append(Commitment.of(journal.read(entry), now))
        except OSError as error:
            raise ConfigurationError(
                f"run {entry.name[:12]} cannot be read ({error}), so that nobody knows what is left of the budget; mend that,"
                " or take the budget out"
            ) from error
    return found


def affordable(
    home: Path, budgets: Sequence[Budget], spec: Spec, offers: Sequence[Offer]
) -> tuple[Offer, ...]:
    """The Offers whose worst case is paid for by what is left of each budget.

    Args:
        home: folder of all runs.
        budgets: its limits.
        spec: what is asked for.
        offers: the ladder.

    Raises:
        BudgetExceeded: none is; names the budget, what is left of it and how to ask for less.
        ConfigurationError: nobody knows what is left.
    """
    worst = [cost.worst_case_usd(spec, offer) for offer in offers]
    if not budgets or not any(worst):
        return tuple(offers)
    tightest = _tightest(home, budgets)
    found = [o for o, usd in zip(offers, worst, strict=True) if tightest.pays_for(usd)]
    if not found:
        raise tightest.refusal(min(worst))
    return tuple(found)


@contextlib.contextmanager
def reserved(home: Path, budgets: Sequence[Budget], worst_case_usd: float) -> Iterator[None]:
    """Holds the budgets of a folder of runs until one more run is written down in it.

    Args:
        home: that folder.
        budgets: its limits.
        worst_case_usd: what the run may cost until its deadline.

    Raises:
        BudgetExceeded: it might cost more than is left.
        ConfigurationError: nobody knows what is left.
        RunBusy: another process holds them.
    """
    if not budgets or not worst_case_usd:
        yield
        return
    file = home / "budget.lock"

    def busy(holder: str) -> RunBusy:
        return RunBusy(
            f"process {holder} has held {file} for {_WAIT_S:.0f} s: end it, and try again"
        )

    # Two runs at once must not both be given what is left.
    with file_lock.held(file, _WAIT_S, busy) as descriptor:
        tightest = _tightest(home, budgets)
        if not tightest.pays_for(worst_case_usd):
            raise tightest.refusal(worst_case_usd)
        try:
            yield
        finally:
            # A child that was forked meanwhile may have it open, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)


@dataclass(frozen=True)
class _Left:
    """What is left of a budget."""

    budget: Budget
    taken_usd: float
    now: float

    @property
    def usd(self) -> float:
        return max(0.0, self.budget.usd - self.taken_usd)

    def pays_for(self, usd: float) -> bool:
        return usd <= self.usd + _ROUNDED_USD

    def refusal(self, worst_case_usd: float) -> BudgetExceeded:
        cents = math.floor((self.usd + _ROUNDED_USD) * 100)
        less = f"max_cost={cents / 100:.2f}, or a shorter max_runtime=, asks for less"
        return BudgetExceeded(
            f"{self.budget.setting}=${self.budget.usd:g} ({self.budget.origin}): ${self.taken_usd:.2f} of"
            f" {self.budget.period(self.now)} are spent, or may still be by runs that are open, and this one may cost"
            f" ${worst_case_usd:.2f} until its deadline; {less if cents else 'nothing is left'}; `dayfly cost` and `dayfly ps`"
            " tell of the others, and the setting can be raised"
        )


def _tightest(home: Path, budgets: Sequence[Budget]) -> _Left:
    """Of which the least is left."""
    now = time.time()
    found = commitments(home, now)
    left = [_Left(each, taken_usd(each, found, now), now) for each in budgets]
    return min(left, key=lambda each: each.usd)
