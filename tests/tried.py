"""What was tried how: tests marked `tried(provider, how)` leave a record when they pass, and the README's table is made of these.

`make tried` takes the records of the last test runs into docs/tried.json and writes the table.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dayfly.infra import providers

_ROOT = Path(__file__).parent.parent
FRESH = _ROOT / "build" / "tried.jsonl"
KEPT = _ROOT / "docs" / "tried.json"
README = _ROOT / "README.md"
HOW = ("emulator", "real")
_TABLE = re.compile(r"(?<=<!-- tried -->\n).*?(?=<!-- /tried -->)", re.DOTALL)


@dataclass(frozen=True, order=True)
class Record:
    """One test that passed.

    Attributes:
        provider: as `provider=` takes it.
        how: "emulator" or "real".
        system: "Linux as root", "macOS as an ordinary user".
        day: ISO 8601.
        test: its name.
    """

    provider: str
    how: str
    system: str
    day: str
    test: str


def record(provider: str, how: str, system: str = "", *, test: str) -> None:
    """Notes that a test has passed today; where `system` is not given, as who runs the tests."""
    assert how in HOW, how
    account = "root" if os.getuid() == 0 else "an ordinary user"
    here = f"{platform.system().replace('Darwin', 'macOS')} as {account}"
    entry = Record(provider, how, system or here, datetime.now(UTC).date().isoformat(), test)
    FRESH.parent.mkdir(exist_ok=True)
    with FRESH.open("a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")


def kept() -> list[Record]:
    """The records that the table is made of."""
    return [Record(**values) for values in json.loads(KEPT.read_text())]


def latest(records: Iterable[Record]) -> list[Record]:
    """Of the records of one provider, way, system and test the youngest."""
    youngest: dict[tuple[str, ...], Record] = {}
    for entry in sorted(records, key=lambda entry: entry.day):
        youngest[entry.provider, entry.how, entry.system, entry.test] = entry
    return sorted(youngest.values())


def table(records: Iterable[Record]) -> str:
    """The README's table: every provider, and for each way where, when and by how many tests; else "not yet"."""
    lines = ["| provider | emulator | real |", "|---|---|---|"]
    found = list(records)
    for provider in providers.names():
        cells = [_cell([e for e in found if (e.provider, e.how) == (provider, way)]) for way in HOW]
        if providers.load(provider).same_computer:
            cells[0] = "not needed"
        lines.append(f"| {provider} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(records: list[Record]) -> str:
    by_system: dict[str, list[Record]] = {}
    for entry in records:
        by_system.setdefault(entry.system, []).append(entry)
    return (
        "; ".join(
            f"{system}: {len(entries)} test{'s' * (len(entries) > 1)}, {max(e.day for e in entries)}"
            for system, entries in sorted(by_system.items())
        )
        or "not yet"
    )


def shown() -> str:
    """The table as the README has it."""
    match = _TABLE.search(README.read_text())
    assert match, "README.md has no <!-- tried --> table"
    return match[0]


def main() -> int:
    """Takes what was recorded into docs/tried.json and the README."""
    fresh = [Record(**json.loads(line)) for line in FRESH.read_text().splitlines()]
    records = latest([*kept(), *fresh])
    KEPT.write_text(json.dumps([asdict(entry) for entry in records], indent=1) + "\n")
    README.write_text(_TABLE.sub(lambda _: table(records), README.read_text()))
    print(table(records), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
