"""The benchmarks' table and JSON; what they measure is theirs to say."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import arrays, peers, place, report
from benchmarks.place import TrialFailed
from benchmarks.report import Row, Say

KEPT = Row("cold", 2.0, "floor", 1.6, "s", "<= 1.25 x peer", True)
MISSED = Row("memory", 4 * 2**30, "limit", 3 * 2**30, "bytes", "< 3 GiB", False, ("left: a pid",))


def kept(say: Say) -> Row:
    """a promise kept"""
    say("1 of 1")
    return KEPT


def missed(say: Say) -> Row:
    """a promise missed"""
    return MISSED


def test_rows_are_found_by_listing_the_folder() -> None:
    """Each has a file of its own with the way to measure it."""
    known = set(command.names())
    assert {"cold", "ctrl_c", "import", "log_latency", "twenty_runs"} <= known
    assert {"array_in", "array_out", "memory_in", "memory_both"} <= known
    assert all(callable(command.load(name)) for name in command.names())


def test_the_file_is_a_list_of_rows_with_their_ratio(tmp_path: Path) -> None:
    """It has exactly the fields that were promised, and nothing of an earlier run."""
    file = tmp_path / "build" / "bench.json"
    report.write([KEPT, MISSED], file)
    report.write([KEPT], file)
    assert json.loads(file.read_text()) == [
        {
            "name": "cold",
            "ours": 2.0,
            "peer_name": "floor",
            "peer": 1.6,
            "unit": "s",
            "ratio": 1.25,
            "goal": "<= 1.25 x peer",
            "holds": True,
        }
    ]
    assert [entry.name for entry in file.parent.iterdir()] == ["bench.json"]


def test_a_missed_goal_is_shown_with_its_reason_and_fails_the_command(tmp_path: Path) -> None:
    """The table has every row, and the exit code is 1."""
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    code = command.run({"cold": kept, "memory": missed}, tmp_path / "bench.json", console)
    assert code == 1
    assert len(json.loads((tmp_path / "bench.json").read_text())) == 2
    for part in ("2.00 s", "1.60 s", "4.00 GiB", "3.00 GiB", "1.33", "memory: left: a pid"):
        assert part in shown.getvalue()


def broken(say: Say) -> Row:
    """a trial that fails"""
    raise TrialFailed("it ended with 1: no sshd")


def test_a_row_that_gives_no_number_fails_the_command_and_spares_the_others(tmp_path: Path) -> None:
    """It is named with its reason."""
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    code = command.run({"log": broken, "cold": kept}, tmp_path / "bench.json", console)
    assert code == 1
    assert [row["name"] for row in json.loads((tmp_path / "bench.json").read_text())] == ["cold"]
    assert "log gave no number: it ended with 1: no sshd" in shown.getvalue()


def test_a_command_whose_rows_all_hold_ends_with_zero(tmp_path: Path) -> None:
    """So that a script can rely on it."""
    assert command.run({"cold": kept}, tmp_path / "bench.json", Console(file=io.StringIO())) == 0


def test_an_unknown_row_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured."""
    assert command.main(["warm"]) == 2
    assert f"no row warm; known: {', '.join(command.names())}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1.934, "s", "1.93 s"), (12.44, "ms", "12.4 ms"), (2**29, "bytes", "0.50 GiB")],
)
def test_values_are_written_for_people(value: float, unit: str, text: str) -> None:
    """With as many digits as are worth reading."""
    assert report.with_unit(value, unit) == text


def test_a_bound_is_kept_by_the_worst_trial() -> None:
    """Its value is that one's, beside the limit; the median is for the reader."""
    row = report.bound("ctrl_c", [8.0, 9.5, 8.5], 10.0)
    assert (row.ours, row.peer, row.ratio, row.holds) == (9.5, 10.0, 0.95, True)
    assert row.notes == ("median 8.50 s",)
    assert not report.bound("ctrl_c", [8.0, 10.1, 8.5], 10.0).holds


def test_a_bound_that_is_kept_in_time_alone_is_not_kept() -> None:
    """What a trial has left counts, whatever it took."""
    row = report.bound("ctrl_c", [8.0], 10.0, ["left: process 7"])
    assert not row.holds
    assert "left: process 7" in row.notes


def test_what_does_not_come_is_no_number() -> None:
    """And says what the trial had said by then; what comes has its time."""
    with pytest.raises(TrialFailed, match="the receipt did not come in 0 s: no capacity"):
        place.wait("the receipt", lambda: False, 0.0, lambda: "no capacity")
    before = time.time()
    assert place.wait("the receipt", lambda: True, 0.0) >= before


def test_an_array_is_measured_against_every_peer_or_its_promise_is_not_kept() -> None:
    """Each of them has its own bound; one that is missing is named, and passes for nothing."""
    best = {"ours": 0.3, "scp": 0.25, "execnet": 3.5, "mitogen": 3.1}
    kept = arrays.row("array_in", best, [])
    assert (kept.holds, kept.peer_name, kept.ratio) == (True, "scp", 1.2)
    assert len(kept.notes) == 2
    assert not arrays.row("array_in", best | {"scp": 0.23}, []).holds
    assert not arrays.row("array_in", best | {"mitogen": 2.9}, []).holds
    del best["mitogen"]
    unasked = arrays.row("array_in", best, ["mitogen"])
    assert not unasked.holds
    assert "mitogen, which is not installed" in unasked.notes[-1]


def test_a_peer_that_is_not_installed_is_found_out() -> None:
    """Without importing any of them."""
    assert peers.missing(["json", "no_such_peer"]) == ["no_such_peer"]
