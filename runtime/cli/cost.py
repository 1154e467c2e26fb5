"""`dayfly cost`: what has been spent, by day, provider and function."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dayfly.runtime.spending import Spending, Total


def cost(
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="DAY|DURATION", help='From that day on, "2026-01-31", or "7d" ago.'
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Add up what the runs of this computer have cost.

    By day, provider and function; open runs up to now. A run whose launch was never answered is listed: it has cost so much
    at most.
    """
    from dayfly.runtime.cli.output import emit_json, tell
    from dayfly.runtime.context import Context
    from dayfly.runtime.spending import Spending
    from dayfly.stacks import journal

    now = time.time()
    histories = journal.histories(Context.open().workspace.runs, closed=True)
    spending = Spending.of(histories, now, since=_moment(since, now))
    if json:
        emit_json(spending.as_dict())
    elif spending.expenses:
        _print(spending)
    else:
        tell("nothing has been spent")


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(cost)


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


def _print(spending: Spending) -> None:
    from dayfly.runtime.cli.output import emit_rows, tell

    for name in ("day", "provider", "function"):
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
