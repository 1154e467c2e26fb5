"""The line of a warm run by itself: what becomes of calls when it ends."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dayfly.errors import DeadlineReached, Forged, JobStopped, RunFailed
from dayfly.runtime.agent import frames
from dayfly.runtime.agent.call_book import CallBook
from dayfly.runtime.agent.job_folder import JobFolder
from dayfly.runtime.agent.known_call import KnownCall
from dayfly.runtime.ledger import Ledger, totals
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_line import Sent, WarmLine

RUN, KEY = "0" * 32, bytes(32)


def made() -> WarmLine:
    """One that has no link, so that nothing is sent."""
    return WarmLine(RUN, KEY, lambda _: Path("nowhere"))


def call(line: WarmLine, number: int) -> Sent:
    """A call that is as good as any."""
    handle: WarmCall[Any] = WarmCall(number, RUN, line.stop, 0.0)
    return Sent(handle, "f" * 64, b"")


def test_what_is_sent_behind_the_end_fails_as_what_was_open() -> None:
    """Whoever submits while the run ends must not wait for ever; the first reason stays."""
    line = made()
    early, late = call(line, 1), call(line, 2)
    line.send([early])
    assert [line.over] == [None]
    line.fail(why := RunFailed("it has ended"))
    line.fail(RunFailed("and once more"))
    line.send([late])
    assert early.call.exception(1) is why
    assert late.call.exception(1) is why
    assert line.over is why
    assert not line.open_calls()


@pytest.mark.parametrize("straight", [True, False])
def test_a_call_that_an_interrupt_has_kept_from_being_sent_is_waited_for_by_nobody(
    straight: bool,
) -> None:
    """Its machine would wait for it, too, before it makes a later one."""
    line, sent = made(), list[bytes]()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def send(data: bytes) -> None:
        sent.append(data)

    stream = SimpleNamespace(send=interrupted, close=lambda: None)
    if straight:
        line._shortcut = cast(Any, stream)
    line._link = cast(Any, (SimpleNamespace(post=interrupted), 1))
    with pytest.raises(KeyboardInterrupt):
        line.send([first := call(line, 1)])
    assert not line.open_calls()
    assert isinstance(first.call.exception(1), KeyboardInterrupt)
    stream.send = send
    line._link = cast(Any, (SimpleNamespace(post=lambda head, body: sent.append(body)), 1))
    line.send([call(line, 2)])
    assert len(sent) == 1
    assert b"after" not in sent[0]


def test_acknowledgements_that_an_interrupt_has_kept_back_are_sent_later(tmp_path: Path) -> None:
    """Their results would stay with the machine, and come once more."""
    line, posts = made(), list[bytes]()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    line._acks = [7]
    line._link = cast(Any, (SimpleNamespace(post=interrupted), 1))
    with pytest.raises(KeyboardInterrupt):
        line.send([call(line, 8)])
    line._link = cast(Any, (SimpleNamespace(post=lambda head, body: posts.append(body)), 1))
    line.has_ended(0.0)
    assert [frames.decode(each)[0]["ack"] for each in posts] == [[7]]


def test_calls_that_have_no_result_are_in_the_ledger_too(tmp_path: Path) -> None:
    """Or fewer would have been made than were."""
    book = Ledger(tmp_path)
    line = WarmLine(RUN, KEY, lambda _: Path("nowhere"), book)
    line.send([call(line, 1)])
    line.fail(RunFailed("it has ended"))
    line.send([call(line, 2)])
    assert totals(tmp_path) is None
    book.close()
    told = totals(tmp_path)
    assert told is not None
    assert (told["calls"], told["without_value"]) == (2, 2)


def test_the_ledger_is_written_before_the_machine_forgets_a_result(tmp_path: Path) -> None:
    """Whoever has been killed in between would else know of it nowhere."""
    book, told = Ledger(tmp_path), list[int]()
    line = WarmLine(RUN, KEY, lambda _: Path("nowhere"), book)
    link = SimpleNamespace(post=lambda *_: told.append((totals(tmp_path) or {"calls": 0})["calls"]))
    line.send([mine := call(line, 1)])
    stopped = refused(mine, wished=True)
    head = {"results": [stopped.result]}
    line.put(({}, frames.encode(head, stopped.content())))
    assert isinstance(mine.call.exception(5), JobStopped)
    await_line(book)
    line._link = cast(Any, (link, 1))
    line.has_ended(0.0)
    book.close()
    assert told[0] == 1


def await_line(book: Ledger) -> None:
    """What may run the user's code is settled in a thread of its own, which then enters it."""
    until = time.monotonic() + 5
    while not book._done:
        assert time.monotonic() < until
        time.sleep(0.002)


def refused(sent: Sent, *, wished: bool) -> KnownCall:
    """What the machine makes of a call that is stopped while its run is told to end."""
    book = CallBook(JobFolder("nowhere"), KEY, RUN)
    known = KnownCall(sent.entry(), b"")
    book.run_ends, known.unwanted = True, wished
    book.refuse(known, "stopped")
    return known


def test_a_call_that_ended_with_its_run_hears_what_has_ended_that() -> None:
    """Whichever way it comes; one that was to be stopped was stopped."""
    line = made()
    mine, by_line, by_result = (call(line, number) for number in (1, 2, 3))
    line.send([mine, by_line, by_result])
    mine.call.stop()
    told = [refused(mine, wished=True), refused(by_line, wished=False)]
    head = {"results": [known.result for known in told]}
    line.put(({}, frames.encode(head, b"".join(known.content() for known in told))))
    left = refused(by_result, wished=False).sealed_result
    line.deliver({3: frames.unseal(KEY, RUN, frames.call_result_seq(3), left)})
    assert isinstance(mine.call.exception(1), JobStopped)
    assert [each.number for each in line.open_calls()] == [2, 3]
    line.fail(why := DeadlineReached("its time is over"))
    assert by_line.call.exception(1) is by_result.call.exception(1) is why


def test_a_forged_result_ends_its_own_call_and_the_line() -> None:
    """Nothing of it is unpickled, and whoever waits for it must not wait for ever; what came before it is taken."""
    line = made()
    good, forged, behind = (call(line, number) for number in (1, 2, 3))
    line.send([good, forged, behind])
    told = [refused(each, wished=True) for each in (good, forged, behind)]
    told[1].sealed_result = told[1].sealed_result[:-2] + b"!\n"
    head = {"results": [known.result for known in told]}
    line.put(({}, frames.encode(head, b"".join(known.content() for known in told))))
    with pytest.raises(Forged, match="call 2 is not authentic"):
        line.has_ended(0.0)
    assert isinstance(forged.call.exception(1), Forged)
    assert isinstance(good.call.exception(1), JobStopped)
    assert [each.number for each in line.open_calls()] == [3]


def test_a_large_result_is_fetched_when_no_pool_takes_any_more_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind the program's last statement, where another pool's last work may still make calls."""
    result = b'{"outcome": "value", "type": "", "text": "", "traceback": ""}\n' + pickle.dumps([7])

    def fetch(number: int) -> Path:
        path = tmp_path / f"call-{number}"
        path.write_bytes(frames.seal(KEY, RUN, frames.call_result_seq(number), result))
        return path

    line = WarmLine(RUN, KEY, fetch)
    line.send([sent := call(line, 1)])
    known = KnownCall(sent.entry(), b"")
    known.done({"file": True}, b"")
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    line.put(({}, frames.encode({"results": [known.result]})))
    assert sent.call.result(20) == [7]
    assert not list(tmp_path.iterdir())
