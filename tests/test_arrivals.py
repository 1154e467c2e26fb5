"""The buffer of a channel: the same bytes in the same order, and whoever waits for them is told."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko.buffered_pipe import PipeTimeout

from dayfly.runtime.ssh.arrivals import Arrivals


@given(st.lists(st.binary(max_size=20), max_size=10), st.lists(st.integers(1, 30), min_size=20))
def test_what_is_fed_is_read(packets: list[bytes], sizes: list[int]) -> None:
    """In whatever bites; an empty packet is not the end, and the event is set as long as there is something."""
    arrivals, told, got = Arrivals(), threading.Event(), b""
    arrivals.set_event(told)
    for packet in packets:
        arrivals.feed(packet)
    whole = b"".join(packets)
    for size in sizes:
        assert (len(arrivals), arrivals.read_ready()) == (len(whole) - len(got), got != whole)
        assert told.is_set() == arrivals.read_ready()
        if arrivals.read_ready():
            data = arrivals.read(size)
            assert 0 < len(data) <= size
            got += data
    assert got + arrivals.empty() == whole
    assert not told.is_set()


def test_nothing_comes_in_time() -> None:
    """It is told from the end."""
    arrivals = Arrivals()
    with pytest.raises(PipeTimeout):
        arrivals.read(1, 0.0)
    arrivals.feed("text")
    arrivals.close()
    assert [arrivals.read(9, 0.0), arrivals.read(9, 0.0)] == [b"text", b""]


def test_the_end_wakes_whoever_waits() -> None:
    """And stays known: to a reader, and to an event that comes later."""
    arrivals, told, got = Arrivals(), threading.Event(), list[bytes]()
    reader = threading.Thread(target=lambda: got.append(arrivals.read(9)))
    reader.start()
    arrivals.close()
    reader.join()
    arrivals.set_event(told)
    assert (got, told.is_set()) == ([b""], True)
    arrivals.feed(b"late")
    assert arrivals.empty() == b"late"
    assert told.is_set()


def test_what_is_handed_on_is_not_there_to_be_read() -> None:
    """What waited comes first; the end is told as it was before."""
    arrivals, told, got = Arrivals(), threading.Event(), list[bytes]()
    arrivals.set_event(told)
    arrivals.feed(b"one")
    arrivals.feed(b"two")
    arrivals.hand_to(got.append, lambda: got.append(b"over"))
    arrivals.feed(b"three")
    arrivals.feed(b"")
    assert got == [b"onetwo", b"three"]
    assert (len(arrivals), told.is_set()) == (0, False)
    arrivals.close()
    arrivals.close()
    assert got[2:] == [b"over"]
    assert told.is_set()
    assert arrivals.read(9) == b""
    arrivals.hand_to(got.append, lambda: got.append(b"late"))
    assert got[3:] == [b"late"]


def test_parts_are_given_as_they_came() -> None:
    """As many as there is room for; one that is larger than that is cut, so that something comes."""
    arrivals = Arrivals()
    for part in (b"abc", b"de", b"fghi"):
        arrivals.feed(part)
    assert arrivals.read_parts(6, 0.0) == [b"abc", b"de"]
    assert arrivals.read_parts(3, 0.0) == [b"fgh"]
    assert len(arrivals) == 1
    assert arrivals.read_parts(9, 0.0) == [b"i"]
    arrivals.close()
    assert arrivals.read_parts(9, 0.0) == []
