"""Tallies: each map, and what is sent, has its own; a pipe gets a line now and then, a terminal a bar."""

from __future__ import annotations

import pytest

from dayfly.runtime.display import Display, _steps
from dayfly.runtime.surface import Pipe
from dayfly.runtime.tally import Tally
from tests.test_display import in_terminal


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def display() -> Display:
    """One on a pipe of its own."""
    return Display(Pipe())


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Lines, without what aligns them."""
    return [" ".join(line.split()) for line in capfd.readouterr().err.splitlines()]


def test_a_pipe_gets_a_line_every_ten_seconds_and_one_at_the_end(
    display: Display, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the rate, and for how long it will go on like that."""
    tally = Tally(display, "map", 100, clock=clock)
    for second in range(25):
        tally.count(second * 2)
        clock.now += 1
    assert said(capfd) == [
        "map 10 s 20 of 100 items, 2.0/s, 40 s left",
        "map 20 s 40 of 100 items, 2.0/s, 30 s left",
    ]
    tally.count(100)
    tally.end()
    tally.end()
    assert said(capfd) == ["map 25 s 100 of 100 items, 4.0/s"]


def test_what_is_over_soon_needs_no_line(
    display: Display, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does one that was never counted."""
    tally = Tally(display, "map", 3, clock=clock)
    tally.count(0)
    clock.now += 9
    tally.count(3)
    tally.end()
    never = Tally(display, "map", 3, clock=clock)
    clock.now += 60
    never.end()
    assert said(capfd) == []


def test_maps_at_once_have_one_each(display: Display, clock: Clock) -> None:
    """Beside the step under way, in the order in which they have begun; with the job all of them are over."""
    display.step("run")
    first, second = Tally(display, "map", 8, clock=clock), Tally(display, "map", clock=clock)
    second.count(0)
    first.count(0)
    clock.now += 120
    second.count(3)
    first.count(2)
    shown = [(name, detail) for _, name, _, detail in _steps()]
    assert shown == [
        ("run", ""),
        ("map", "3 items, 1.5/min"),
        ("map", "━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 2 of 8 items, 1.0/min, 6 min left"),
    ]
    second.end()
    assert len(_steps()) == 2
    display.done()
    assert _steps() == []
    display.step("run")
    assert len(_steps()) == 1
    display.done()


def test_bytes_that_were_there_before_have_not_come_at_this_rate(
    display: Display, clock: Clock
) -> None:
    """As where a connection goes on, or a part is there from another run."""
    tally = Tally(display, "data", 10**9, unit="bytes", clock=clock)
    tally.count(4 * 10**8)
    assert tally.text == "400.0 MB of 1.0 GB"
    clock.now += 10
    tally.count(5 * 10**8)
    assert tally.text == "500.0 MB of 1.0 GB, 10.0 MB/s, 50 s left"


SCRIPT = """
import time
from dayfly.runtime.display import Display
from dayfly.runtime.tally import Tally
display = Display.standard()
display.step("run")
tally = Tally(display, "map", 4)
for done in range(4):
    tally.count(done)
    time.sleep(0.3)
tally.end()
display.done()
"""


@pytest.mark.process
def test_a_terminal_has_a_bar_in_its_live_line() -> None:
    """And nothing of it is left."""
    seen = in_terminal(SCRIPT)
    assert "map 0." in seen
    assert "━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 1 of 4 items" in seen
    assert "items" not in seen.rpartition("\x1b[K")[2]
