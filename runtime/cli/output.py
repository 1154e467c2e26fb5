"""What commands print: JSON or a table on stdout, errors on stderr, and the exit code of each error."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from dayfly.errors import DayflyError, JobExited, JobKilled
from dayfly.runtime.redact import redact, redact_known


def emit_json(value: Any) -> None:
    """JSON on stdout; what JSON has no word for is shown as its repr rather than lost."""
    print(json.dumps(value, indent=2, default=_plain))


def emit_value(value: Any, as_json: bool) -> None:
    """A function's value; None is nothing to show, unless as JSON."""
    if as_json:
        emit_json(value)
    elif value is not None:
        print(repr(value))


def emit_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: drawn on a terminal, aligned plain text in a pipe."""
    if sys.stdout.isatty():
        _draw(columns, rows)
        return
    widths = [max(len(row[n]) for row in (columns, *rows)) for n in range(len(columns))]
    for row in (columns, *rows):
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def emit_pairs(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Labels and texts under a title."""
    if sys.stdout.isatty():
        _draw_pairs(title, rows)
        return
    width = max((len(label) for label, _ in rows), default=0)
    print(title)
    for label, text in rows:
        first, *more = text.split("\n") or [""]
        print(f"  {label:<{width}}  {first}".rstrip())
        for line in more:
            print(f"  {'':<{width}}  {line}".rstrip())


def tell(text: str) -> None:
    """A remark on stderr, so that stdout stays what was asked for."""
    print(redact(text), file=sys.stderr, flush=True)


def complain(error: DayflyError) -> None:
    """One of our errors, as a message without a traceback."""
    tell("\n".join([f"dayfly: {error}", *getattr(error, "__notes__", ())]))


def complain_of_function(error: BaseException) -> None:
    """The function's own exception; where the machine's traceback is attached, the frames on this side say nothing."""
    told = getattr(error, "__notes__", ())
    lines = traceback.format_exception_only(error) if told else traceback.format_exception(error)
    print(redact_known("".join(lines).rstrip()), file=sys.stderr, flush=True)


def exit_code(error: BaseException) -> int:
    """The code that a command ends with, as the help lists them."""
    if isinstance(error, JobExited):
        return error.code or 1
    if isinstance(error, JobKilled) and error.signal:
        return 128 + error.signal
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, DayflyError) else 1


def _draw_pairs(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(f"  {label}"), Text(text))
    console = Console(highlight=False)
    console.print(Text(title, style="bold cyan"))
    console.print(table)


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As Text: brackets in it are no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _plain(value: Any) -> Any:
    """Arrays and scalars of numpy and its kin as lists and numbers, anything else as its repr."""
    for name in ("tolist", "isoformat"):
        method = getattr(value, name, None)
        if callable(method):
            return method()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return repr(value)
