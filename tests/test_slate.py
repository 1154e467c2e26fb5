"""Tests of the slate: what one process writes down, another one reads once, whole and in its order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from dayfly.runtime.agent.slate import Slate
from tests.warm import WAIT_S


def read(slate: Slate, heard: int = 0) -> list[bytes]:
    """All that there is."""
    return list(slate.take(heard))


def in_another(act: Callable[[], object]) -> int:
    """Have a forked process do it; gives its number."""
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os._exit(0)
    return pid


def test_what_is_written_is_read_once_and_in_its_order() -> None:
    """However often it goes round."""
    slate, number = Slate(), 0
    for _ in range(200):
        payloads = [b"%d " % (number + more) * (1 + more * 100) for more in range(5)]
        assert all(slate.put(0, payload) for payload in payloads)
        assert read(slate) == payloads
        assert read(slate) == []
        number += 5
    assert number * 1000 > Slate._ROOM_BYTES


def test_what_there_is_no_room_for_is_not_written_in_part() -> None:
    """Nor what is too large at all; it is taken again once there is room."""
    slate, payload = Slate(), bytes(Slate.MOST_BYTES)
    assert not slate.put(0, payload + b"x")
    count = 0
    while slate.put(0, payload):
        count += 1
    assert count == Slate._ROOM_BYTES // (len(payload) + Slate._HEAD.size)
    assert read(slate) == [payload] * count
    assert slate.put(0, payload)


def test_what_was_sent_otherwise_before_is_heard_before() -> None:
    """What comes behind it is kept until then."""
    slate = Slate()
    for sent, payload in ((0, b"first"), (2, b"third"), (2, b"fourth"), (3, b"sixth")):
        assert slate.put(sent, payload)
    assert read(slate, 1) == [b"first"]
    assert read(slate, 2) == [b"third", b"fourth"]
    assert read(slate, 2) == []
    assert read(slate, 3) == [b"sixth"]


def test_bytes_that_are_not_there_yet_are_read_later() -> None:
    """A processor of another kind may show the count before what it counts."""
    slate = Slate()
    assert slate.put(0, b"whole")
    place = slate._HEAD.size
    there = bytes(slate._room[place : place + 5])
    slate._room[place : place + 5] = bytes(5)
    assert read(slate) == []
    slate._room[place : place + 5] = there
    assert read(slate) == [b"whole"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_a_process_has_written_is_there_when_it_is_not() -> None:
    """Killed between any two of them, nothing that was written is missing, torn, or read twice."""
    slate, seen = Slate(), list[bytes]()

    def write() -> None:
        number = 0
        while True:
            number += slate.put(0, b"%d" % number)

    pid = in_another(write)
    until = time.monotonic() + WAIT_S
    while len(seen) < 5000:
        assert time.monotonic() < until
        seen += read(slate)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    seen += read(slate)
    assert seen == [b"%d" % number for number in range(len(seen))]
