"""A record of what was tried lasts as long as its test is there, and passes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tried
from tests.tried import Record

_HERE = "tests/test_tried.py::test_a_test_is_there_by_its_name"
_OLD = Record("local", "real", "Linux as root", "2026-01-01", _HERE, "aaaaaaa")


@pytest.mark.parametrize(
    ("test", "there"),
    [
        (_HERE, True),
        (f"{_HERE}[a-True]", True),
        ("tests/test_closer.py::TestARecord::test_nothing_of_the_sort", False),
        ("tests/test_tried.py::test_a_test_is_there", False),
        ("tests/test_nothing.py::test_a_test_is_there_by_its_name", False),
    ],
)
def test_a_test_is_there_by_its_name(test: str, *, there: bool) -> None:
    """One that was renamed, or removed with its file, is not."""
    assert tried.is_there(test) == there


def test_the_youngest_record_counts_and_a_failure_takes_it_away() -> None:
    """Another system's stays; of one day the last one counts."""
    again = replace(_OLD, day="2026-01-02", commit="bbbbbbb")
    failed = replace(again, passed=False)
    elsewhere = replace(_OLD, system="macOS as root")
    assert tried.latest([again, _OLD]) == [again]
    assert tried.latest([_OLD, again, failed, elsewhere]) == [elsewhere]
    assert tried.latest([_OLD, failed, again]) == [again]
    assert tried.latest([replace(_OLD, test=f"{_HERE}_no_more")]) == []


def test_the_table_names_the_commit_of_the_last_day() -> None:
    """Where somebody knows it."""
    younger = replace(_OLD, test="other", day="2026-01-02", commit="bbbbbbb+")
    said = tried.table([_OLD, younger])
    assert "| local | not needed | Linux as root: 2 tests, 2026-01-02 (bbbbbbb+) |" in said
    assert "1 test, 2026-01-01 |" in tried.table([replace(_OLD, commit="")])


def test_taking_the_records_drops_what_failed_and_forgets_that_it_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second time nothing is new."""
    for name in ("FRESH", "KEPT", "README"):
        monkeypatch.setattr(tried, name, tmp_path / name)
    gone = replace(_OLD, test="tests/test_tried.py::test_of_yesterday")
    tried.KEPT.write_text(json.dumps([tried._as_kept(each) for each in (_OLD, gone)]))
    tried.README.write_text("<!-- tried -->\n<!-- /tried -->\n")
    tried.record("lambda", "emulator", "Linux as root", test=_HERE, passed=True)
    tried.record("local", "real", "Linux as root", test=_HERE, passed=False)
    for _ in range(2):
        assert tried.main() == 0
        (left,) = tried.kept()
        assert (left.provider, left.how, left.test) == ("lambda", "emulator", _HERE)
        assert left.commit == tried._commit()
        assert tried.shown() == tried.table([left])
        assert not tried.FRESH.exists()
    said = capsys.readouterr().out
    assert f"no longer recorded, since it failed last or is not there: {gone.test}" in said


@pytest.mark.process
def test_a_test_that_fails_in_any_phase_is_recorded_so(tmp_path: Path) -> None:
    """A passing one is taken back by its teardown; one that is skipped says nothing."""
    (tmp_path / "conftest.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(tried.__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from tests import tried\n"
        "from tests.conftest import pytest_runtest_makereport\n"
        f"tried.FRESH = Path({str(tmp_path / 'build/fresh')!r})\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "pytestmark = pytest.mark.tried('local', 'real')\n"
        "@pytest.fixture\n"
        "def bad():\n    raise ValueError\n"
        "@pytest.fixture\n"
        "def late():\n    yield\n    raise ValueError\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "def test_early(bad): pass\n"
        "def test_late(late): pass\n"
        "def test_never(): pytest.skip('not here')\n"
    )
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "build/fresh").read_text().splitlines()]
    ended = [(line["test"].partition("::")[2], line["passed"]) for line in lines]
    assert ended == [
        ("test_good", True),
        ("test_bad", False),
        ("test_early", False),
        ("test_late", True),
        ("test_late", False),
    ]
