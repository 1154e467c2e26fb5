"""The handle of a warm call: who settles it, and that nobody's code runs in the connection's thread."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import queue
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

import pytest

from dayfly.runtime import warm_call
from dayfly.runtime.warm_call import WarmCall

ENTRY = {"queued_s": 0.25, "took_s": 1.5}


def made(*, nested: bool = False) -> WarmCall[Any]:
    return WarmCall(7, "0" * 32, lambda _: None, 0.0, nested=nested)


def result_of(value: object, outcome: str = "value") -> io.BytesIO:
    header = {"outcome": outcome, "type": "", "text": "", "traceback": "", "load_s": 0.5}
    return io.BytesIO(json.dumps(header).encode() + b"\n" + pickle.dumps(value, protocol=5))


@pytest.mark.parametrize("value", [None, 7, "text", [1.5, {"a": (b"b", {2, 3})}], frozenset({1})])
def test_a_plain_value_is_settled_at_once(value: object) -> None:
    """With all that is known of it beside its value."""
    call = made()
    assert call.settle_plain(result_of(value), ENTRY, b"out\n", b"err\n")
    assert call.result(0) == value
    assert (call.outcome, call.stdout, call.stderr) == ("value", "out\n", "err\n")
    assert (call.times.queue_s, call.times.load_s, call.times.run_s) == (0.25, 0.5, 1.0)
    assert call.times.total_s > 0


@pytest.mark.parametrize("value", [OrderedDict(a=1), range(3), ValueError("x"), complex(1, 2)])
def test_what_has_a_class_is_left_to_another_thread(value: object) -> None:
    """Loading it may import, or run the user's code; the file is where it was."""
    call, result = made(), result_of(value)
    assert not call.settle_plain(result, ENTRY, b"", b"")
    assert (call.done(), result.tell()) == (False, 0)
    call.settle(result, ENTRY, b"", b"")
    assert repr(call.result(0)) == repr(value)


def test_an_exception_and_a_packed_result_are_left_to_another_thread() -> None:
    """As is a result that holds nothing to load."""
    error = result_of(ValueError("no"), "raised")
    assert not made().settle_plain(error, ENTRY, b"", b"")
    assert not made(nested=True).settle_plain(result_of(b""), ENTRY, b"", b"")
    call, empty = made(), io.BytesIO(b'{"outcome": "value"}\n')
    assert not call.settle_plain(empty, ENTRY, b"", b"")
    call.settle(empty, ENTRY, b"", b"")
    assert call.result(0) is None


def test_a_callback_never_runs_where_a_value_is_settled() -> None:
    """It may do anything, and wait for anything; one that comes later runs where it is added, as does what is only told."""
    heard: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()

    def hear(done: Future[Any]) -> None:
        heard.put((done.result(0), threading.current_thread() is threading.main_thread()))

    plain, other, late, told = (made() for _ in range(4))
    plain.add_done_callback(hear)
    assert plain.settle_plain(result_of(7), ENTRY, b"", b"")
    assert heard.get(timeout=20) == (7, False)
    other.add_done_callback(hear)
    other.settle(result_of(8), ENTRY, b"", b"")
    assert heard.get(timeout=20) == (8, False)
    assert late.settle_plain(result_of(9), ENTRY, b"", b"")
    late.add_done_callback(hear)
    assert heard.get(timeout=20) == (9, True)
    told.tell(hear)
    assert told.settle_plain(result_of(10), ENTRY, b"", b"")
    assert heard.get(timeout=20) == (10, True)


def test_whoever_awaits_a_value_waits_for_no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as run at once may wait for what the event loop does next: the value goes from its thread to the loop."""
    monkeypatch.setattr(warm_call, "_callbacks", lambda: pytest.fail("a callback's thread is used"))
    value, error = made(), made()

    def settle() -> None:
        assert value.settle_plain(result_of(7), ENTRY, b"", b"")
        error.settle(result_of(ValueError("no"), "raised"), ENTRY, b"", b"")

    async def both() -> tuple[Any, Any]:
        asyncio.get_running_loop().call_later(
            0.01, threading.Thread(target=settle, daemon=True).start
        )
        return await asyncio.wait_for(asyncio.gather(value, error, return_exceptions=True), 20)

    first, second = asyncio.run(both())
    assert first == 7
    assert isinstance(second, ValueError)


def test_a_callback_is_called_when_no_pool_takes_any_more_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As behind the program's last statement; still in no thread by which a value comes."""
    heard: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()

    def hear(done: Future[Any]) -> None:
        heard.put((done.result(0), threading.current_thread() is threading.main_thread()))

    call = made()
    call.add_done_callback(hear)
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    assert call.settle_plain(result_of(7), ENTRY, b"", b"")
    assert heard.get(timeout=20) == (7, False)


def test_a_call_that_has_failed_keeps_its_error() -> None:
    """Its result may be on its way all the same."""
    call = made()
    call.fail(ValueError("first"))
    result = result_of(7)
    assert not call.settle_plain(result, ENTRY, b"", b"")
    call.settle(result, ENTRY, b"", b"")
    with pytest.raises(ValueError, match="first"):
        call.result(0)
