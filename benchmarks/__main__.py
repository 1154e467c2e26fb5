"""`python -m benchmarks [ROW ...]`: measures the rows, prints the table, writes build/bench.json; 1 when a goal is missed."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.place import TrialFailed
from benchmarks.report import Measure, Row

_FOLDER = Path(__file__).parent
_PREFIX = "row_"


def names() -> list[str]:
    """Every row there is, by listing this folder: one `row_NAME.py` each."""
    return sorted(file.stem.removeprefix(_PREFIX) for file in _FOLDER.glob(f"{_PREFIX}*.py"))


def load(name: str) -> Measure:
    """How a row is measured: `measure` of its file."""
    measure: Measure = importlib.import_module(f"benchmarks.{_PREFIX}{name}").measure
    return measure


def run(rows: Mapping[str, Measure], file: Path, console: Console) -> int:
    """Measures each row, one after the other, shows them and writes them down.

    Returns:
        0 when every row gave a number that holds, else 1.
    """
    measured: list[Row] = []
    broken: dict[str, str] = {}
    for name, measure in rows.items():
        console.print(f"{name}: {(measure.__doc__ or '').strip()}", markup=False)
        try:
            row = measure(lambda text: console.print(f"  {text}", style="dim", markup=False))
        except TrialFailed as failed:
            # One row that breaks must not cost the numbers of the others.
            broken[name] = str(failed)
            continue
        measured.append(row)
    report.write(measured, file)
    console.print(report.table(measured))
    notes = [f"{row.name}: {note}" for row in measured for note in row.notes]
    for note in [*notes, *(f"{name} gave no number: {why}" for name, why in broken.items())]:
        console.print(note, markup=False, soft_wrap=True)
    load_average = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    console.print(f"load average {load_average} on {os.cpu_count()} cores; written to {file}")
    return 0 if not broken and all(row.holds for row in measured) else 1


def main(arguments: Sequence[str]) -> int:
    """The command: the rows named, or all of them."""
    known = names()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"no row {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    # What a shell starts in the background ignores SIGINT, which no terminal has it do, and so would all that is started here: a
    # client that is to end of Ctrl-C, and the plain CLI's language host, for whose end of one it waits five seconds.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = {name: load(name) for name in arguments or known}
    return run(rows, _FOLDER.parent / "build" / "bench.json", Console())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
