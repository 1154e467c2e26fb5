"""Tests of the running digest: however content arrives, it is that of the file."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.runtime.agent.running_digest import RunningDigest

CONTENT = random.Random(5).randbytes(1 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An empty one."""
    descriptor = os.open(tmp_path / "content", os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


def pieces(size: int) -> list[tuple[int, bytes]]:
    """All of it, cut."""
    return [(place, CONTENT[place : place + size]) for place in range(0, len(CONTENT), size)]


def digest_of(begin: int) -> bytes:
    """What is expected."""
    return hashlib.sha256(CONTENT[begin:]).digest()


@pytest.mark.parametrize("begin", [0, 117])
def test_what_comes_in_its_order_is_not_read_again(
    file: int, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is told in pieces that begin before what is to be digested."""
    running = RunningDigest(file, begin)
    for place, data in pieces(50_000):
        os.pwrite(file, data, place)
        running.add(place, memoryview(data))
    monkeypatch.setattr(os, "pread", None)
    running.catch_up(len(CONTENT))
    assert running.digest() == digest_of(begin)


@pytest.mark.parametrize("begin", [0, 117, 25_000])
def test_what_comes_in_parts_is_digested_part_by_part(
    file: int, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them begins before what is to be digested, and others lie before it."""
    running = RunningDigest(file, begin)
    monkeypatch.setattr(os, "pread", None)
    for place, data in pieces(50_000):
        running.add(place, *(data[start : start + 7000] for start in range(0, len(data), 7000)))
    assert running.done == len(CONTENT)
    assert running.digest() == digest_of(begin)


@pytest.mark.parametrize("begin", [0, 117])
def test_in_any_order_it_is_the_same(file: int, begin: int) -> None:
    """What was not next is read from the file, as far as it is there without a gap."""
    running, mixed = RunningDigest(file, begin), pieces(30_000)
    random.Random(7).shuffle(mixed)
    there = set()
    for place, data in mixed:
        os.pwrite(file, data, place)
        running.add(place, data)
        there.add(place)
        have = next(each for each in range(0, len(CONTENT) + 30_000, 30_000) if each not in there)
        running.catch_up(min(have, len(CONTENT)))
    assert running.digest() == digest_of(begin)


def test_two_at_once_digest_nothing_twice(file: int) -> None:
    """One brings the pieces while the other catches up."""
    running = RunningDigest(file)
    written = [0]

    def bring() -> None:
        for place, data in pieces(4096):
            os.pwrite(file, data, place)
            running.add(place, data)
            written[0] = place + len(data)

    thread = threading.Thread(target=bring)
    thread.start()
    while thread.is_alive():
        running.catch_up(written[0])
    thread.join()
    running.catch_up(len(CONTENT))
    assert running.digest() == digest_of(0)


def test_what_is_repeated_changes_nothing(file: int) -> None:
    """A piece that comes once more, after a link broke."""
    running = RunningDigest(file)
    for place, data in pieces(100_000):
        for _ in range(2):
            os.pwrite(file, data, place)
            running.add(place, data)
    assert running.digest() == digest_of(0)


def test_a_file_that_ends_too_early_is_said(file: int) -> None:
    """It must not be waited for."""
    os.pwrite(file, CONTENT[:100], 0)
    with pytest.raises(OSError, match="ends at 100, before 200"):
        RunningDigest(file).catch_up(200)
