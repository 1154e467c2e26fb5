"""When a client that says nothing counts as gone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.runtime.agent.hearing import Hearing
from dayfly.runtime.ssh import link

_SERVE = """
import sys
from dayfly.runtime.agent import hearing, serve
hearing.Hearing.SILENT_S, hearing.Hearing.LOOK_S = 0.2, 0.05
serve(bytes.fromhex(sys.argv[1]), sys.argv[2])
"""


class Line:
    """A client's line, and the time on the machine."""

    def __init__(self) -> None:
        self.now = 1000.0
        reading, self.writing = os.pipe()
        self.hearing = Hearing(reading, lambda: self.now)
        self._reader = threading.Thread(target=lambda: self.hearing.exactly(4))
        self._ends = reading, self.writing

    def listen(self) -> None:
        """Has the machine wait for four bytes."""
        self._reader.start()
        self.await_listening()

    def await_listening(self) -> None:
        while self.hearing._listening != self.now:
            time.sleep(0.001)

    def looks(self, seconds: float) -> list[bool]:
        """What each look finds in that time."""
        found = []
        for _ in range(int(seconds / Hearing.LOOK_S)):
            self.now += Hearing.LOOK_S
            found.append(self.hearing.is_gone())
        return found

    def close(self) -> None:
        if self._reader.is_alive():
            os.write(self.writing, b"last")
            self._reader.join()
        for end in self._ends:
            os.close(end)


@pytest.fixture
def line() -> Iterator[Line]:
    opened = Line()
    yield opened
    opened.close()


def test_a_client_that_has_said_nothing_for_too_long_is_gone(line: Line) -> None:
    """And not before."""
    line.listen()
    assert not any(line.looks(Hearing.SILENT_S))
    assert line.looks(Hearing.LOOK_S) == [True]


def test_each_byte_shows_that_it_is_there(line: Line) -> None:
    """A frame may take long on a slow line."""
    line.listen()
    line.looks(Hearing.SILENT_S)
    os.write(line.writing, b"a")
    line.await_listening()
    assert not any(line.looks(Hearing.SILENT_S))
    assert line.looks(Hearing.LOOK_S) == [True]


def test_what_takes_long_on_the_machine_is_no_silence_of_the_client(line: Line) -> None:
    """Nobody listens meanwhile."""
    assert not any(line.looks(10 * Hearing.SILENT_S))


def test_a_machine_that_was_stopped_itself_judges_at_its_second_look(line: Line) -> None:
    """What has come meanwhile could not be read yet."""
    line.listen()
    line.now += 10 * Hearing.SILENT_S
    assert not line.hearing.is_gone()
    assert line.looks(Hearing.LOOK_S) == [True]


def test_it_is_gone_long_after_it_would_have_called_the_machine_gone() -> None:
    """It pings, and gives a silent link up by itself: a line that only stutters is not cut from this side."""
    assert Hearing.SILENT_S >= 5 * link.PING_EVERY_S * link.PINGS_MISSED


@pytest.mark.process
def test_the_agent_of_a_silent_client_ends_though_its_connection_is_open(tmp_path: Path) -> None:
    """So that a session sees that it is alone."""
    opening = (secrets.token_bytes(64)).hex()
    command = [sys.executable, "-c", _SERVE, opening, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        try:
            assert agent.wait(60) == 0
        finally:
            agent.kill()
