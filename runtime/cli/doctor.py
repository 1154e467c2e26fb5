"""`dayfly doctor`: what is in order, what is not and how to mend it, and where every setting comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dayfly.runtime.cli.common import with_json

if TYPE_CHECKING:
    from dayfly.runtime.doctor import Report

_LAYERS = "argument > environment > project [tool.dayfly] > user file > default"


@click.command()
@with_json
def doctor(json: bool) -> None:
    """Check this computer, and show all settings.

    Each failure has its fix, each setting its origin. Exit code 1 where something that is needed is broken.
    """
    from dayfly.runtime.cli.output import emit_json
    from dayfly.runtime.doctor import examine

    report = examine()
    if json:
        emit_json(report.as_dict())
    else:
        _print(report)
    raise click.exceptions.Exit(0 if report.healthy else 1)


def _print(report: Report) -> None:
    from dayfly.runtime.cli.output import emit_rows
    from dayfly.stacks.settings import user_file

    rows = [
        [check.level.upper(), check.name, check.detail + (f"\n-> {check.fix}" if check.fix else "")]
        for check in report.checks
    ]
    emit_rows(("", "CHECK", "FOUND"), [part for row in rows for part in _split(row)])
    print(f"\nsettings: {_LAYERS}; the user file is {user_file()}")
    shown = [
        [name, "-" if value is None else str(value), origin]
        for name, value, origin in report.settings
    ]
    emit_rows(("SETTING", "VALUE", "FROM"), shown)


def _split(row: list[str]) -> list[list[str]]:
    """A cell of several lines as several rows."""
    first, *more = row[-1].split("\n")
    return [[*row[:-1], first], *([*([""] * (len(row) - 1)), line] for line in more)]
