"""What was tried how: tests marked `tried(provider, how)` leave a record of how they ended, and the README's table is made of these.

`make tried` takes the records of the last test runs into docs/tried.json and writes the table. A test that failed last, or is no
longer there, has no record.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import subprocess
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
    """How one test ended.

    Attributes:
        provider: as `provider=` takes it.
        how: "emulator" or "real".
        system: "Linux as root", "macOS as an ordinary user".
        day: ISO 8601.
        test: its name.
        commit: short, with a "+" where the checkout had changes of its own; "" where nobody knows.
        passed: whether it did; only such are kept.
    """

    provider: str
    how: str
    system: str
    day: str
    test: str
    commit: str = ""
    passed: bool = True


def record(provider: str, how: str, system: str = "", *, test: str, passed: bool) -> None:
    """Notes how a test has ended today; where `system` is not given, as who runs the tests."""
    assert how in HOW, how
    account = "root" if os.getuid() == 0 else "an ordinary user"
    here = f"{platform.system().replace('Darwin', 'macOS')} as {account}"
    day = datetime.now(UTC).date().isoformat()
    entry = Record(provider, how, system or here, day, test, _commit(), passed)
    FRESH.parent.mkdir(exist_ok=True)
    with FRESH.open("a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")


@functools.cache
def _commit() -> str:
    """The commit that is tried, as `Record.commit`."""
    name = _git("rev-parse", "--short", "HEAD")
    return name + "+" * bool(name and _git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def kept() -> list[Record]:
    """The records that the table is made of."""
    return [Record(**values) for values in json.loads(KEPT.read_text())]


def fresh() -> list[Record]:
    """What the test runs since the last `make tried` have left, the oldest first."""
    lines = FRESH.read_text().splitlines() if FRESH.exists() else []
    return [Record(**json.loads(line)) for line in lines]


def latest(records: Iterable[Record]) -> list[Record]:
    """Of the records of one provider, way, system and test the youngest, if the test passed then and is still there.

    Args:
        records: of one day the oldest first.
    """
    youngest: dict[tuple[str, ...], Record] = {}
    for entry in sorted(records, key=lambda entry: entry.day):
        youngest[entry.provider, entry.how, entry.system, entry.test] = entry
    return sorted(each for each in youngest.values() if each.passed and is_there(each.test))


def is_there(test: str) -> bool:
    """Whether a test of that name is still written down: "tests/engine/test_call.py::test_a_value[case]"."""
    file, _, rest = test.partition("::")
    name = rest.partition("[")[0].rpartition("::")[2]
    path = _ROOT / file
    return path.is_file() and bool(
        re.search(rf"^ *def {re.escape(name)}\(", path.read_text(), re.MULTILINE)
    )


def table(records: Iterable[Record]) -> str:
    """The README's table: every provider, and for each way where, when and by how many tests; else "not yet"."""
    lines = ["| provider | emulator | real |", "|---|---|---|"]
    found = list(records)
    for provider in providers.names():
        cells = [_cell([e for e in found if (e.provider, e.how) == (provider, way)]) for way in HOW]
        loaded = providers.load(provider)
        if loaded.same_computer or "host" in loaded.takes:
            cells[0] = "not needed"
        lines.append(f"| {provider} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(records: list[Record]) -> str:
    by_system: dict[str, list[Record]] = {}
    for entry in records:
        by_system.setdefault(entry.system, []).append(entry)
    return (
        "; ".join(
            f"{system}: {len(entries)} test{'s' * (len(entries) > 1)}, {_when(entries)}"
            for system, entries in sorted(by_system.items())
        )
        or "not yet"
    )


def _when(records: list[Record]) -> str:
    """The last day, and the commit of it."""
    last = max(records, key=lambda entry: entry.day)
    return f"{last.day} ({last.commit})" if last.commit else last.day


def shown() -> str:
    """The table as the README has it."""
    match = _TABLE.search(README.read_text())
    assert match, "README.md has no <!-- tried --> table"
    return match[0]


def main() -> int:
    """Takes what was recorded into docs/tried.json and the README."""
    before, records = kept(), latest([*kept(), *fresh()])
    KEPT.write_text(json.dumps([_as_kept(entry) for entry in records], indent=1) + "\n")
    README.write_text(_TABLE.sub(lambda _: table(records), README.read_text()))
    FRESH.unlink(missing_ok=True)
    print(table(records), end="")
    for test in sorted({entry.test for entry in before} - {entry.test for entry in records}):
        print(f"no longer recorded, since it failed last or is not there: {test}")
    return 0


def _as_kept(entry: Record) -> dict[str, str]:
    return {name: value for name, value in asdict(entry).items() if name != "passed"}


if __name__ == "__main__":
    sys.exit(main())
