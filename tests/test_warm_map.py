"""Maps of a warm run on loopback: in order, as they come, tried again, bounded, and left early."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from dayfly import Data
from dayfly.errors import JobExited, PayloadError, RunFailed, SpecError
from dayfly.runtime.warm_map import WarmMap
from tests.warm import WAIT_S, Warm, warm, within

pytestmark = pytest.mark.sshd


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One run for all of them."""
    with warm(tmp_path_factory.mktemp("warm")) as run:
        yield run
        assert run.end().how == "finished"


def test_values_come_in_the_items_order_and_processes_are_shared(shared: Warm) -> None:
    """Many short items do not need a process each; each has its own output all the same."""

    def function(number: int) -> tuple[int, int]:
        if number % 10 == 0:
            print(number)
        return number, os.getpid()

    items = ((number,) for number in range(300))
    made: WarmMap[tuple[int, int]] = WarmMap(shared.calls(function), items, total=300, ordered=True)
    values = list(made.results())
    assert [value for value, _ in values] == list(range(300))
    assert len({pid for _, pid in values}) < 100
    assert made._tally.text.startswith("300 of 300 items, ")
    shown = [line.partition("] ")[2] for line in shared.log().splitlines()]
    assert sorted(map(int, shown)) == list(range(0, 300, 10))


def test_unordered_values_come_as_they_are_there(shared: Warm, tmp_path: Path) -> None:
    """The first item waits for the second's value to have come."""

    def function(path: Path, number: int) -> int:
        while number == 0 and not path.exists():
            time.sleep(0.005)
        return number

    calls = shared.calls(function)
    go = tmp_path / "go"
    made: WarmMap[int] = WarmMap(
        calls,
        [(go, 0), (go, 1)],
        total=2,
        ordered=False,
    )
    values = made.results()
    assert next(values) == 1
    go.touch()
    assert list(values) == [0]


def test_an_item_that_fails_is_tried_again_as_often_as_was_asked(
    shared: Warm, tmp_path: Path
) -> None:
    """It may raise, crash or take too long; the items beside it are made once."""

    def function(number: int) -> int:
        with (tmp_path / str(number)).open("a") as file:
            file.write("x")
        tries = (tmp_path / str(number)).stat().st_size
        if number == 1 and tries < 3:
            raise ValueError(number)
        if number == 2 and tries < 2:
            os._exit(3)
        if number == 3 and tries < 2:
            time.sleep(600)
        return number

    assert shared.map(function, range(5), retries=2, timeout=2.0) == list(range(5))
    assert [(tmp_path / str(n)).stat().st_size for n in range(5)] == [1, 3, 2, 2, 1]


def test_exceptions_take_the_place_of_values_where_that_is_asked_for(shared: Warm) -> None:
    """Also that of a crash."""

    def function(number: int) -> int:
        if number == 1:
            raise ValueError(number)
        if number == 2:
            os._exit(3)
        return number

    values = shared.map(function, range(4), return_exceptions=True)
    assert [type(value) for value in values] == [int, ValueError, JobExited, int]


def test_the_first_failure_is_raised_and_the_rest_is_stopped(shared: Warm, tmp_path: Path) -> None:
    """Nothing of the map goes on."""

    def function(number: int) -> None:
        if number == 0:
            raise ValueError("first")
        (tmp_path / f"begun-{number}").touch()
        time.sleep(600)

    with pytest.raises(ValueError, match="first"):
        shared.map(function, range(10))
    assert shared.call(abs, -1) == 1
    assert len(list(tmp_path.iterdir())) < 9


def test_no_more_run_at_once_than_was_asked_for(shared: Warm, tmp_path: Path) -> None:
    """The machine has two slots; one is used."""

    def function(number: int) -> bool:
        with (tmp_path / "one").open("x"):
            time.sleep(0.01)
        (tmp_path / "one").unlink()
        return True

    assert all(shared.map(function, range(6), max_concurrency=1))


@pytest.mark.parametrize("size", [1 << 17, 1 << 19], ids=["with their call", "by themselves"])
def test_large_items_are_sent_ahead_by_their_size(
    shared: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Before the first value has come, and from then on, never more than the bytes that may be ahead, and what the slots need."""
    monkeypatch.setattr("dayfly.runtime.warm_map._AHEAD_BYTES", 4 << 20)
    taken: list[int] = []
    # As many items as may be ahead, and as many as go together.
    ahead, parcel = (4 << 20) // size, (1 << 20) // size
    total = 5 * ahead

    def function(content: bytes) -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        return content[0]

    def items() -> Iterator[tuple[bytes]]:
        for number in range(total):
            taken.append(number)
            yield (bytes([number]) * size,)

    made: WarmMap[int] = WarmMap(shared.calls(function), items(), total=total, ordered=True)
    assert len(taken) == ahead
    (tmp_path / "go").touch()
    values = made.results()
    for number in range(total):
        assert next(values) == number
        # Those that are under way, and those that have come together with this one.
        assert len(taken) - number <= 2 * (ahead + parcel)


def test_no_more_is_made_behind_a_slow_item_than_may_wait_for_it(
    shared: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come and cannot be given yet counts as what is under way; all of it is made in the end."""
    monkeypatch.setattr("dayfly.runtime.warm_map._AHEAD", 4)
    taken: list[int] = []

    def function(number: int) -> int:
        while number == 0 and not (tmp_path / "go").exists():
            time.sleep(0.005)
        return number

    def items() -> Iterator[tuple[int]]:
        for number in range(40):
            taken.append(number)
            yield (number,)

    made: WarmMap[int] = WarmMap(shared.calls(function), items(), total=None, ordered=True)
    heard: Future[list[int]] = Future()
    threading.Thread(target=lambda: heard.set_result(list(made.results())), daemon=True).start()
    until = time.monotonic() + WAIT_S
    while len(made._under_way) > 1:
        assert time.monotonic() < until
        time.sleep(0.005)
    # 4, and two for each of the two slots.
    assert len(taken) == 8
    (tmp_path / "go").touch()
    assert heard.result(WAIT_S) == list(range(40))


def test_a_thread_that_is_left_behind_does_not_meet_the_next_item(shared: Warm) -> None:
    """Its process is not used again."""

    def function(number: int) -> tuple[int, int]:
        alone = threading.active_count()
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return alone, os.getpid()

    values = shared.map(function, range(4))
    assert [alone for alone, _ in values] == [1] * 4
    assert len({pid for _, pid in values}) == 4


@pytest.mark.parametrize("fails", ["the items", "an item that cannot travel"])
def test_what_was_sent_is_stopped_where_a_map_does_not_begin(shared: Warm, fails: str) -> None:
    """The first items are under way when a later one turns out to be none; their slots are free again."""

    def items() -> Iterator[Any]:
        yield from [600] * 64
        if fails == "the items":
            raise KeyError("mine")
        yield threading.Lock()

    with pytest.raises(KeyError if fails == "the items" else PayloadError):
        shared.map(time.sleep, items())
    assert within(lambda: shared.map(abs, [-1, -2])) == [1, 2]


async def awaited(made: WarmMap[Any], given: list[Any]) -> None:
    async for value in made.results_aio():
        given.append(value)


def taken(made: WarmMap[Any], given: list[Any]) -> None:
    for value in made.results():
        given.append(value)


HOW: dict[str, Callable[[WarmMap[Any], list[Any]], None]] = {
    "by a thread": taken,
    "by a task": lambda made, given: asyncio.run(awaited(made, given)),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("last", ["fails", "cannot be sent"])
def test_what_has_come_is_given_before_the_failure_of_another_item(
    shared: Warm, monkeypatch: pytest.MonkeyPatch, how: str, ordered: bool, last: str
) -> None:
    """It was made, and paid for; what is under way is stopped before anybody is done with these."""
    monkeypatch.setattr("dayfly.runtime.warm_map._AHEAD", 0)

    def function(number: Any) -> int:
        if number == 3 and last == "fails":
            raise ValueError(number)
        return int(number)

    items = [(0,), (1,), (2,), (3,), (threading.Lock(),)]
    made: WarmMap[int] = WarmMap(shared.calls(function), items, total=5, ordered=ordered)
    until = time.monotonic() + WAIT_S
    while made._arrived.qsize() < 4:
        assert time.monotonic() < until
        time.sleep(0.005)
    given = list[int]()
    with pytest.raises(ValueError if last == "fails" else PayloadError):
        HOW[how](made, given)
    assert sorted(given) == list(range(3 if last == "fails" else 4))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("ordered", [True, False])
def test_an_item_that_cannot_be_sent_is_its_own_failure_where_exceptions_are_values(
    shared: Warm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, ordered: bool
) -> None:
    """What cannot travel, does not fit or is not there costs no other item its value, wherever it stands."""
    monkeypatch.setattr("dayfly.runtime.warm_map._AHEAD", 8)

    def function(item: Any) -> int:
        return len(item) if isinstance(item, bytes) else int(item)

    gone = tmp_path / "gone"
    gone.touch()
    missing = Data(gone)
    gone.unlink()
    calls: list[tuple[Any, ...]] = [(n,) for n in range(60)]
    bad = {0: PayloadError, 5: PayloadError, 6: PayloadError, 40: SpecError, 59: PayloadError}
    for place, args in zip(
        bad, [(threading.Lock(),), (), (1, 2), (missing,), (threading.Lock(),)], strict=True
    ):
        calls[place] = args
    made: WarmMap[Any] = WarmMap(
        shared.calls(function),
        calls,
        total=60,
        ordered=ordered,
        return_exceptions=True,
        retries=1,
    )
    given = list[Any]()
    within(lambda: HOW[how](made, given))
    if ordered:
        assert [type(value) for value in given] == [bad.get(n, int) for n in range(60)]
    assert sorted(v for v in given if isinstance(v, int)) == [n for n in range(60) if n not in bad]
    assert made._tally.text.startswith("60 of 60 items")


def test_what_is_no_item_s_own_ends_a_map_also_where_exceptions_are_values(shared: Warm) -> None:
    """A function that cannot travel, and an error of whatever gives the items."""
    lock = threading.Lock()

    def function(number: int) -> int:
        with lock:
            return number

    def items() -> Iterator[int]:
        yield 1
        raise SpecError("of the one who gives the items")

    with pytest.raises(PayloadError, match="lock"):
        shared.map(function, range(3), return_exceptions=True)
    with pytest.raises(SpecError, match="who gives the items"):
        shared.map(abs, items(), return_exceptions=True)


def test_a_map_ends_with_its_run(tmp_path: Path) -> None:
    """Nothing is tried again then, and an item that was not sent yet fails as those that were; so does a late call."""
    with warm(tmp_path) as run:
        calls = run.calls(time.sleep)

        def sleeping(**how: Any) -> WarmMap[None]:
            return WarmMap(calls, ((600,) for _ in range(9)), total=9, ordered=True, **how)

        bounded: dict[str, Any] = {"return_exceptions": True, "max_concurrency": 2}
        raising, giving = sleeping(retries=3), sleeping(**bounded)
        trying = sleeping(retries=1, **bounded)
        calls.end(why := RunFailed("the run has ended"))
        with pytest.raises(RunFailed) as raised:
            within(lambda: list(raising.results()))
        assert raised.value is why
        assert within(lambda: list(giving.results())) == [why] * 9
        assert within(lambda: list(trying.results())) == [why] * 9
        assert calls.submit_all([((1,), {})])[0].exception(WAIT_S) is why
        assert run.session.stop().how == "stopped"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout": "soon"}, "timeout='soon'"),
    ],
)
def test_what_cannot_be_asked_of_a_map_is_refused(
    shared: Warm, how: dict[str, Any], said: str
) -> None:
    """Before an item is sent."""
    with pytest.raises(SpecError, match=said):
        shared.map(abs, [1], **how)
