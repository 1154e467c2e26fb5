"""Waiting that an interrupt always ends."""

from __future__ import annotations

import time
from collections.abc import Callable

TURN_S = 0.25


def wait(turn: Callable[[float], bool], timeout_s: float | None = None) -> bool:
    """Waits in short turns until one says that it has come, or the time is over.

    The kernel may hand a signal to any thread, and Python runs its handler in the main thread only, when that one wakes: a
    Ctrl-C that another thread was given is lost on a main thread that sleeps without bound.

    Args:
        turn: waits at most so many seconds, and tells whether what is waited for has come.

    Returns:
        Whether it has come.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = TURN_S if until is None else min(TURN_S, max(0.0, until - time.monotonic()))
        if turn(left):
            return True
        if until is not None and time.monotonic() >= until:
            return False
