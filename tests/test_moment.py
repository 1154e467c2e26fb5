"""What threads and event loops wait for: woken by what happens, never by looking again."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from dayfly.runtime.aside import aside
from dayfly.runtime.moment import Bell, Moment


def test_a_moment_wakes_threads_and_tasks() -> None:
    """And stays what it is when it comes twice, or when one of them gives up before."""
    moment, woken = Moment(), list[str]()
    threads = [threading.Thread(target=lambda: woken.append(str(moment.wait()))) for _ in range(3)]
    for thread in threads:
        thread.start()

    async def tasks() -> None:
        first, second = asyncio.create_task(moment.come()), asyncio.create_task(moment.come())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert not moment.wait(0)
        moment.set()
        moment.set()
        await second
        await moment.come()

    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert woken == ["True"] * 3
    assert moment.wait(0)


def test_no_ring_is_missed_by_who_takes_the_next_before_it_looks() -> None:
    """Eight threads count up and ring; the one that follows sees the last of it."""
    bell, seen, lock = Bell(), [0], threading.Lock()

    def count() -> None:
        for _ in range(200):
            with lock:
                seen[0] += 1
            bell.ring()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    while True:
        news = bell.next
        if seen[0] == 1600:
            break
        news.wait()
    for thread in threads:
        thread.join()


def test_what_blocks_is_done_in_another_thread_with_the_same_context() -> None:
    """Its value or its exception comes back."""
    variable = contextvars.ContextVar[str]("variable")

    async def use() -> None:
        variable.set("seen")
        assert await aside(threading.get_ident) != threading.get_ident()
        assert await aside(variable.get) == "seen"
        with pytest.raises(ZeroDivisionError):
            await aside(lambda: 1 // 0)

    asyncio.run(use())


@pytest.mark.parametrize("fails", [False, True])
def test_a_value_that_nobody_waits_for_any_more_is_handed_on(fails: bool) -> None:
    """A thread cannot be broken off; what it brings too late is seen to, and a failure is nothing to see to."""
    go, unwanted, over = threading.Event(), list[int](), threading.Event()

    def work() -> int:
        try:
            go.wait()
            return 3 // (not fails)
        finally:
            over.set()

    async def use() -> None:
        waiting = asyncio.create_task(aside(work, unwanted.append))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()

    asyncio.run(use())
    over.wait()
    for thread in threading.enumerate():
        if thread.name == "dayfly-aside":
            thread.join()
    assert unwanted == ([] if fails else [3])
