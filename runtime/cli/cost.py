"""`dayfly cost`: what has been spent, by day, provider and function."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dayfly.runtime.cli.common import with_json

if TYPE_CHECKING:
    from dayfly.runtime.spending import Spending, Total
    from dayfly.stacks.budget import Budget
    from dayfly.stacks.commitment import Commitment


# What expenses are added up by.
_BY = ("day", "provider", "function")


@click.command()
@click.option(
    "--since", metavar="DAY|DURATION", help='From that day on, "2026-01-31", or "7d" ago.'
)
@click.option(
    "--by",
    type=click.Choice(_BY),
    multiple=True,
    default=_BY,
    help="Only the sums by this; may be repeated. All three if left out.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw it, with a bar for each sum.",
)
@with_json
def cost(since: str | None, by: Sequence[str], html: Path | None, json: bool) -> None:
    """Add up what the runs of this computer have cost.

    By day, provider and function; open runs up to now. A run whose launch was never answered is listed: it has cost so much
    at most. Budgets that are set are told with what is left of them.
    """
    from dayfly.errors import SpecError
    from dayfly.infra import whole_file
    from dayfly.runtime.cli.output import emit_json, tell
    from dayfly.runtime.context import Context
    from dayfly.runtime.spending import Spending
    from dayfly.stacks import allowance, journal

    if html is not None and json:
        raise SpecError("--html and --json are two answers; ask for one of them")
    now, workspace = time.time(), Context.open().workspace
    histories = journal.histories(workspace.runs, closed=True)
    spending = Spending.of(histories, now, since=_moment(since, now))

    def budgets() -> list[dict[str, Any]]:
        found = allowance.commitments(workspace.home, now) if workspace.budgets else []
        return [_budget(each, found, now) for each in workspace.budgets]

    if html is not None:
        from dayfly.runtime.spending_page import page

        whole_file.write(html, page(spending, by))
        tell(f"dayfly: what has been spent is drawn in {html}")
    elif json:
        emit_json(spending.as_dict(by) | {"budgets": budgets()})
    else:
        if spending.expenses:
            _print(spending, by)
        else:
            tell("nothing has been spent")
        for each in budgets():
            tell(_budget_line(each))


def _moment(since: str | None, now: float) -> float:
    """
    Raises:
        SpecError: neither a day nor a duration.
    """
    from datetime import datetime

    from dayfly.errors import SpecError
    from dayfly.infra.units import seconds

    if since is None:
        return 0.0
    try:
        return datetime.fromisoformat(since).timestamp()
    except ValueError:
        pass
    try:
        return now - seconds(since, "--since")
    except SpecError:
        raise SpecError(f'--since {since!r}: write a day, "2026-01-31", or "7d", "12h"') from None


def _budget(budget: Budget, commitments: Sequence[Commitment], now: float) -> dict[str, Any]:
    """A budget as plain JSON values."""
    from dayfly.stacks.allowance import taken_usd

    return {
        "setting": budget.setting,
        "usd": budget.usd,
        "period": budget.period(now),
        "taken_usd": taken_usd(budget, commitments, now),
    }


def _budget_line(budget: dict[str, Any]) -> str:
    from dayfly.runtime.wording import dollars

    return (
        f"{budget['setting']}: {dollars(budget['taken_usd'])} of {dollars(budget['usd'])} are spent in {budget['period']}, or"
        " may still be by open runs"
    )


def _print(spending: Spending, by: Sequence[str]) -> None:
    from dayfly.runtime.cli.output import emit_rows, tell

    for name in by:
        emit_rows(
            (name.upper(), "RUNS", "MINUTES", "$"), [_row(total) for total in spending.by(name)]
        )
        print()
    emit_rows(("", "RUNS", "MINUTES", "$"), [_row(spending.total)])
    still = sum(expense.open for expense in spending.expenses)
    if still:
        tell(f"{still} of them open, counted up to now")
    for expense in spending.at_most:
        tell(
            f"run {expense.run[:12]} has cost ${expense.usd:.2f} at most: the answer to its launch was lost"
        )


def _row(total: Total) -> Sequence[str]:
    from dayfly.runtime.wording import dollars

    return [total.name or "-", str(total.runs), f"{total.minutes:.1f}", dollars(total.usd)]
