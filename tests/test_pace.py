"""The pace of one key: over threads and processes, and no turn is lost with whoever waits for it."""

from __future__ import annotations

import fcntl
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dayfly.infra.pace import Pace

_INTERVALS_S = {"request": 1.0, "launch": 12.0}


class Clock:
    """A clock that the test owns."""

    def __init__(self) -> None:
        self.time = 1e9

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def _pace(folder: Path, clock: Clock, key: str = "k") -> Pace:
    return Pace(folder, key, _INTERVALS_S, now=clock.now, sleep=clock.sleep)


@pytest.mark.parametrize(("kind", "apart_s"), [("request", 1.0), ("launch", 12.0)])
def test_two_of_a_kind_are_an_interval_apart(tmp_path: Path, kind: str, apart_s: float) -> None:
    """Two objects stand for two clients of one user."""
    clock = Clock()
    times = []
    for _ in range(3):
        _pace(tmp_path, clock).wait(kind)
        times.append(clock.time)
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([apart_s] * 2)


def test_another_key_has_a_pace_of_its_own_and_no_file_tells_it(tmp_path: Path) -> None:
    """The provider counts by account."""
    clock = Clock()
    for key in ("secret-one", "secret-two"):
        _pace(tmp_path, clock, key).wait("launch")
    assert clock.time == 1e9
    assert len(list(tmp_path.iterdir())) == 2
    for file in tmp_path.iterdir():
        assert "secret" not in file.name + file.read_text()


def test_a_turn_of_another_process_counts(tmp_path: Path) -> None:
    """One file for all of them."""
    code = (
        "import pathlib\n"
        "from dayfly.infra.pace import Pace\n"
        f"Pace(pathlib.Path({str(tmp_path)!r}), 'k', {_INTERVALS_S}, now=lambda: 1e9).wait('launch')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    clock = Clock()
    _pace(tmp_path, clock).wait("launch")
    assert clock.time - 1e9 == pytest.approx(12.0)


def test_whoever_gives_up_waiting_takes_no_turn(tmp_path: Path) -> None:
    """The run is being closed: the next one need not wait longer for that."""
    clock = Clock()
    _pace(tmp_path, clock).wait("launch")

    def give_up() -> None:
        if clock.time > 1e9 + 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        _pace(tmp_path, clock).wait("launch", give_up)
    _pace(tmp_path, clock).wait("launch")
    assert clock.time - 1e9 == pytest.approx(12.0, abs=0.5)


def test_a_held_lock_is_waited_for_with_an_ear_open(tmp_path: Path) -> None:
    """Somebody else waits for the turn before."""
    clock = Clock()
    asked: list[int] = []

    def inside() -> None:
        if not asked:
            asked.append(1)
            with pytest.raises(InterruptedError):
                _pace(tmp_path, clock).wait("launch", _interrupt)

    _pace(tmp_path, clock).wait("launch")
    _pace(tmp_path, clock).wait("launch", inside)
    assert asked


def _interrupt() -> None:
    raise InterruptedError


@pytest.mark.parametrize("written", ["9e18", "not a number", ""])
def test_a_clock_that_was_set_back_or_a_broken_file_costs_one_interval_at_most(
    tmp_path: Path, written: str
) -> None:
    """Never an hour."""
    clock = Clock()
    _pace(tmp_path, clock).wait("request")
    (file,) = tmp_path.iterdir()
    file.write_text(written)
    _pace(tmp_path, clock).wait("request")
    assert clock.time - 1e9 <= 1.0


def test_an_interval_of_nothing_is_no_pace(tmp_path: Path) -> None:
    """No file is made for it."""
    check: Callable[[], None] = _interrupt
    Pace(tmp_path / "pace", "k", {"request": 0.0}).wait("request", check)
    assert not (tmp_path / "pace").exists()


def test_a_process_frozen_in_its_turn_holds_nobody_up_for_ever(tmp_path: Path) -> None:
    """Who waits goes on an interval and ten seconds after the last turn that was taken."""
    clock = Clock()
    _pace(tmp_path, clock).wait("launch")
    (file,) = tmp_path.iterdir()
    with file.open("rb") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        _pace(tmp_path, clock).wait("launch")
    assert clock.time - 1e9 == pytest.approx(22.0, abs=0.1)
