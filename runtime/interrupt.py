"""What Ctrl-C does: the first stops, destroys and proves; the second leaves it to the keeper."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

from dayfly.runtime.job import Job

R = TypeVar("R")
T = TypeVar("T")
_ECHO_S = 0.5
_heard: dict[int, float] = {}


def wait_for(job: Job[R]) -> R:
    """The job's value; an interrupt stops the job, and returns only when its machine is proved gone.

    Raises:
        KeyboardInterrupt: after the teardown.
        LeakRisk: the teardown could not prove absence.
    """
    return _waited(job, job.result)


def detach(job: Job[Any]) -> str:
    """Lets go of the job once its function has started; an interrupt before that does what it does while one waits.

    Returns:
        The run's id.

    Raises:
        KeyboardInterrupt, LeakRisk: as above.
        DayflyError: there is nothing to let go of, or nobody to leave it to.
    """
    return _waited(job, job.detach)


def _waited(job: Job[Any], wait: Callable[[], T]) -> T:
    with signals_as_interrupts():
        try:
            return wait()
        except KeyboardInterrupt:
            if job.done():
                raise
            stop_and_prove([job])
            raise


def see_out(*jobs: Job[Any]) -> None:
    """Waits until every machine is proved gone; an interrupt stops what still runs.

    Raises:
        KeyboardInterrupt: there was one; the machines are gone, or have been left to the keeper.
        LeakRisk: a teardown could not prove absence after an interrupt.
    """
    with signals_as_interrupts():
        try:
            for job in jobs:
                job.wait_closed()
        except KeyboardInterrupt:
            stop_and_prove(jobs)
            raise


def stop_and_prove(jobs: Sequence[Job[Any]]) -> None:
    """What the first Ctrl-C does to open jobs; a second one leaves them to the keeper.

    Raises:
        KeyboardInterrupt: there was a second one.
        LeakRisk: a teardown could not prove absence.
    """
    try:
        jobs[0].display.warning(
            "interrupted: stopping the function, destroying the machine, proving it gone; once more leaves that to the keeper"
        )
        for job in jobs:
            threading.Thread(target=job.stop, daemon=True).start()
        for job in jobs:
            job.wait_closed()
    except KeyboardInterrupt:
        for job in jobs:
            command = job.leave()
            job.display.warning(f"left to the keeper; to finish it by hand: {command}")
        raise
    for job in jobs:
        if job.leak is not None:
            raise job.leak


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP act like Ctrl-C where nobody has claimed them: a closed terminal must not leave a machine."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    claimed = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            claimed[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in claimed.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # Supervisors send a signal to the process and then to its group: the two are one request.
    now = time.monotonic()
    if now - _heard.get(number, -_ECHO_S) < _ECHO_S:
        return
    _heard[number] = now
    raise KeyboardInterrupt
