"""Runs what blocks aside, in a thread of its own, so that an event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T], unwanted: Callable[[T], object] = lambda _: None) -> T:
    """Awaits `work`, which is done in a thread of its own: the loop's executor has few, and some of this takes minutes.

    A thread cannot be broken off. Where the awaiting task is cancelled, it goes on to its end.

    Args:
        work: what blocks.
        unwanted: called in that thread with the value, where nobody waits for it any more.
    """
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            value = context.run(work)
        except BaseException as error:  # noqa: BLE001  # whatever it was is for the one who awaits it
            outcome.set_exception(error)
        else:
            outcome.set_result(value)

    threading.Thread(target=run, name="dayfly-aside", daemon=True).start()
    try:
        return await asyncio.wrap_future(outcome)
    except asyncio.CancelledError:
        outcome.add_done_callback(lambda late: late.exception() or unwanted(late.result()))
        raise
