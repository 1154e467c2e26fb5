"""What has been spent as one HTML file: a bar for each day, provider and function, and every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dayfly.runtime import wording
from dayfly.runtime.document import END, WIDTH, escaped, head
from dayfly.runtime.spending import NAMES, Expense, Spending, Total

_ROW, _BAR, _LABEL = 22, 14, 250
# So many letters of a name have room before its bar; all of it is in the list of runs.
_LETTERS = 36


def page(spending: Spending, by: Sequence[str] = NAMES) -> str:
    """The whole file, with the sums by these."""
    total = spending.total
    since = f" since {spending.since}" if spending.since else ""
    runs = "run" if total.runs == 1 else "runs"
    parts = [
        head(f"{wording.dollars(total.usd)} spent{since}"),
        f"<p>{total.runs} {runs}, {escaped(wording.minutes(total.minutes))} billed</p>\n",
    ]
    for name in by:
        totals = spending.by(name)
        if totals:
            parts += [f"<h2>By {name}</h2>\n", *_chart(name, totals)]
    if spending.expenses:
        parts += ["<h2>Runs</h2>\n<dl>\n", *map(_line, reversed(spending.expenses)), "</dl>\n"]
    return "".join([*parts, END])


def _chart(name: str, totals: Sequence[Total]) -> Iterator[str]:
    most = max(total.usd for total in totals) or 1.0
    # Behind the longest bar there is room for its amount.
    scale = (WIDTH - _LABEL - 90) / most
    height = _ROW * len(totals)
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="dollars by {name}">\n'
    for row, total in enumerate(totals):
        width, y = max(1.0, total.usd * scale), row * _ROW
        label = total.name or "-"
        if len(label) > _LETTERS:
            label = f"{label[: _LETTERS - 1]}…"
        yield f'<text x="0" y="{y + _BAR}" style="fill: var(--ink)">{escaped(label)}</text>'
        yield f'<rect class="f0" x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_BAR}" opacity="0.55"/>'
        amount = wording.dollars(total.usd)
        yield f'<text x="{_LABEL + width + 6:.1f}" y="{y + _BAR}">{escaped(amount)}</text>\n'
    yield "</svg>\n"


def _line(expense: Expense) -> str:
    doubt = " at most" if expense.at_most else ""
    still = ", still open" if expense.open else ""
    words = (
        f"{expense.day}, {expense.provider or '-'}, {expense.function or '-'}: {wording.minutes(expense.minutes)},"
        f" {wording.dollars(expense.usd)}{doubt}{still}"
    )
    return f"<dt>{escaped(expense.run[:12])}</dt><dd>{escaped(words)}</dd>\n"
