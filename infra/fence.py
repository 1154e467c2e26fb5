"""The fence of a run: nothing more is created once somebody has begun to close it, or after its deadline.

A provider process whose engine and client are dead may still be about to send a request. It holds the fence shared while it
creates; whoever closes the run shuts the fence first and then waits for those who had passed it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dayfly.errors import ProvisionFailed

FILE = "fence"
_STEP_S = 0.05


class FenceShut(ProvisionFailed):
    """The run is being closed, or its deadline has passed: nothing was asked for."""


@contextlib.contextmanager
def passing(
    directory: Path, deadline: float, now: Callable[[], float] = time.time
) -> Iterator[None]:
    """Holds the fence open around one creating request.

    Args:
        directory: the run's directory.
        deadline: unix time after which nothing is created.
        now: the time, for tests.

    Raises:
        FenceShut: the request must not be sent.
    """
    try:
        descriptor = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise FenceShut(
            f"run {directory.name} has no directory any more [code dayfly/fence]"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        check(directory, deadline, now)
        yield
    finally:
        os.close(descriptor)


def check(directory: Path, deadline: float, now: Callable[[], float] = time.time) -> None:
    """Refuses where nothing may be created any more; without holding anything.

    Raises:
        FenceShut: the run is being closed, is gone, or its deadline has passed.
    """
    if now() >= deadline:
        raise FenceShut(f"the deadline of run {directory.name} has passed [code dayfly/fence]")
    if not directory.is_dir() or is_shut(directory):
        raise FenceShut(f"run {directory.name} is being closed [code dayfly/fence]")


def is_shut(directory: Path) -> bool:
    """True from the moment at which somebody began to close the run."""
    try:
        return (directory / FILE).stat().st_size > 0
    except FileNotFoundError:
        return False


def shut(directory: Path) -> None:
    """Shuts the fence for good; whoever has passed it is not waited for."""
    descriptor = os.open(directory / FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, b"shut\n", 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_passed(
    directory: Path,
    wait_s: float,
    *,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Waits until nobody is inside a shut fence.

    Returns:
        False where somebody still is after `wait_s`.
    """
    until = now() + wait_s
    descriptor = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if now() >= until:
                return False
            sleep(_STEP_S)
    finally:
        os.close(descriptor)
