"""A row of the result, the table that people read, and the JSON that programs read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One promise, measured.

    Attributes:
        name: what `make bench ONLY=` calls it.
        ours: our value.
        peer_name: what it is compared with.
        peer: the peer's value, in the same unit.
        unit: "s", "ms" or "bytes".
        goal: the promise, in words.
        holds: whether it is kept.
        notes: what else a reader should know; shown below the table, not written down.
    """

    name: str
    ours: float
    peer_name: str
    peer: float
    unit: str
    goal: str
    holds: bool
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer

    def as_dict(self) -> dict[str, str | float | bool]:
        """The row in build/bench.json."""
        return {
            "name": self.name,
            "ours": self.ours,
            "peer_name": self.peer_name,
            "peer": self.peer,
            "unit": self.unit,
            "ratio": round(self.ratio, 3),
            "goal": self.goal,
            "holds": self.holds,
        }


Measure = Callable[[Say], Row]


def bound(name: str, seconds: Sequence[float], most_s: float, problems: Sequence[str] = ()) -> Row:
    """The row of a promise that every single trial has to keep: its value is the worst one.

    Args:
        name: of the row.
        seconds: what each trial took.
        most_s: what it may take.
        problems: what else went wrong in a trial; with any of them the promise is not kept.
    """
    worst = max(seconds)
    return Row(
        name,
        round(worst, 3),
        "limit",
        most_s,
        "s",
        f"each of {len(seconds)} <= {most_s:g} s",
        worst <= most_s and not problems,
        (f"median {statistics.median(seconds):.2f} s", *problems),
    )


def table(rows: Sequence[Row]) -> Table:
    """All rows, for people."""
    shown = Table()
    for column in ("row", "ours", "peer", "", "ratio", "goal", "holds"):
        number = column in ("ours", "peer", "ratio")
        shown.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(
            row.name,
            with_unit(row.ours, row.unit),
            with_unit(row.peer, row.unit),
            row.peer_name,
            f"{row.ratio:.2f}",
            row.goal,
            "[green]yes[/]" if row.holds else "[bold red]no[/]",
        )
    return shown


def with_unit(value: float, unit: str) -> str:
    """A value for people: "1.93 s", "12.4 ms", "0.71 GiB"."""
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{value:.1f} ms" if unit == "ms" else f"{value:.2f} {unit}"


def write(rows: Sequence[Row], file: Path) -> None:
    """Writes the rows, and only these: numbers of another run would not be comparable."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")
    aside.replace(file)
