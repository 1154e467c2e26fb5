"""Places for engine operations: a few at a time over all processes of a user, so that many runs hold memory."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Of two hundred waiting threads that all look twenty times a second two cores do little else: the longer one has waited,
# the less often it looks. Somebody looks soon all the same where many wait.
_FIRST_STEP_S, _LONGEST_STEP_S, _GROWTH = 0.05, 0.5, 1.3
# What one engine operation in flight takes (CLI, provider process, program), measured: 165 MB, with head room.
_OPERATION_BYTES = 400 << 20
# Beside those that all may take: a machine must not be paid for while creations stand in line.
_FOR_TEARDOWNS = 2


@functools.cache
def slot_count() -> int:
    """Engine operations at a time: two a core, as far as a quarter of the memory carries them, 8 at most."""
    # A command that makes nothing has no use for it.
    import psutil

    by_memory = int(psutil.virtual_memory().total // 4 // _OPERATION_BYTES)
    return max(1, min(8, 2 * (os.cpu_count() or 1), by_memory))


@contextlib.contextmanager
def slot(
    folder: Path,
    give_up: Callable[[], bool] = lambda: False,
    wait_s: float = float("inf"),
    *,
    teardown: bool = False,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int | None]:
    """Waits for a place and holds it.

    Args:
        folder: where the places are; one lock file each.
        give_up: asked while waiting.
        wait_s: the longest wait.
        teardown: whether those places count as well that creations may not take.
        now, sleep: time, so that tests need not wait for it.

    Yields:
        A locked descriptor: hand it to the child, and the place stays taken while the child lives. None where the
        wait was given up.
    """
    until, step_s = now() + wait_s, _FIRST_STEP_S
    descriptor = None
    while descriptor is None and not give_up() and now() < until:
        descriptor = _free(folder, slot_count() + (_FOR_TEARDOWNS if teardown else 0))
        if descriptor is None:
            sleep(max(0.0, min(step_s, until - now())))
            step_s = min(step_s * _GROWTH, _LONGEST_STEP_S)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _free(folder: Path, places: int) -> int | None:
    for number in range(places):
        descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return descriptor
    return None
