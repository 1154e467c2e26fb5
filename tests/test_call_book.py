"""The calls that the zygote knows, where some of them come straight to the process that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime.agent import frames
from dayfly.runtime.agent.call_book import CallBook
from dayfly.runtime.agent.job_folder import JobFolder
from dayfly.runtime.agent.known_call import KnownCall

RUN, KEY = "ab" * 16, bytes(32)
RESULT = {"file": False, "took_s": 0.1}


@pytest.fixture
def book(tmp_path: Path) -> CallBook:
    return CallBook(JobFolder(str(tmp_path)), KEY, RUN)


def entry(number: int) -> dict[str, Any]:
    usual = {"size": 4, "blob": "", "function": "f", "group": 0, "timeout_s": None}
    return {"n": number, **usual}


def outcome_of(call: KnownCall) -> bytes:
    seq = frames.call_result_seq(call.number)
    return frames.unseal(KEY, RUN, seq, call.sealed_result)


def test_a_call_that_is_begun_elsewhere_waits_here_no_more(book: CallBook) -> None:
    """Whether it came here as well, before that or after it: it is one call."""
    book.take(entry(1), b"call")
    call = book.begun(entry(1))
    book.take(entry(1), b"call")
    assert book.queue == []
    assert book.begun(entry(2)) is book.begun(entry(2))
    assert (call.number, book.queue) == (1, [])


def test_what_was_sent_later_by_another_way_does_not_begin_sooner(book: CallBook) -> None:
    """It waits until the other is known, whether that is begun, handed on, or sent once more."""
    book.take(entry(2), b"call", after=1)
    book.take(entry(3), b"call", after=1)
    assert not bool(book.may_begin)
    book.take(entry(1), b"call")
    assert book.may_begin
    assert [call.number for call in book.queue] == [1, 2, 3]
    book.begun(entry(1))
    assert [call.number for call in book.queue] == [2, 3]
    assert book.may_begin
    book.queue.clear()
    assert not book.may_begin


def test_what_the_client_was_told_is_kept_and_sent_only_when_it_asks(book: CallBook) -> None:
    """Before the result is known here, or after it; and by whoever comes next."""
    first, second = book.begun(entry(1)), book.begun(entry(2))
    book.ask_for(2)
    book.finish(first, RESULT, b"one", told=True)
    book.finish(second, RESULT, b"two", told=True)
    assert book.ready == [second]
    book.ask_for(1)
    book.ask_for(1)
    assert book.ready == [second, first]
    book.ready.clear()
    book.offer_all()
    assert book.ready == [first, second]


def test_a_result_that_was_acknowledged_before_it_was_known_is_forgotten(book: CallBook) -> None:
    """The client may have it sooner than this does; what then is begun once more is nobody's."""
    call = book.begun(entry(1))
    book.acknowledge(1)
    book.finish(call, RESULT, b"one", told=True)
    book.offer_all()
    assert book.ready == []
    book.take(entry(1), b"call")
    assert book.queue == []
    assert book.begun(entry(1)) is not call


def test_an_acknowledgement_that_comes_before_its_call_is_not_lost(book: CallBook) -> None:
    """The way of the client's own is the shorter one: what is known of the call later is kept for nobody."""
    book.acknowledge(1)
    call = book.begun(entry(1))
    book.finish(call, RESULT, b"one", told=True)
    book.acknowledge(1)
    book.take(entry(2), b"call", after=1)
    assert book.may_begin
    book.offer_all()
    assert book.ready == []
    book.leave_results()
    assert b'"calls"' in (left := Path(book._job.file("result.sealed")).read_bytes())
    assert left.endswith(b"\n"), "a result is left"


def test_a_stop_that_comes_before_its_call_is_not_lost(book: CallBook) -> None:
    """The call is refused, and ended where it has been begun; one that is over is left alone."""
    book.stop(1)
    call = book.begun(entry(1))
    assert call.unwanted
    assert b'"stopped"' in outcome_of(call)
    book.acknowledge(1)
    book.stop(1)
    book.take(entry(2), b"call")
    assert [waits.unwanted for waits in book.queue] == [False]
