"""gather: waits for several jobs, or calls of warm runs, and gives their values."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from dayfly.errors import SpecError
from dayfly.infra.units import shown
from dayfly.runtime import interrupt, wakeful
from dayfly.runtime.job import Job
from dayfly.runtime.moment import Moment
from dayfly.runtime.verb import act
from dayfly.runtime.warm_call import WarmCall


async def _gather_aio(*jobs: Future[Any], return_exceptions: bool = False) -> list[Any]:
    _ask(jobs)
    enough, left, lock = Moment(), set(jobs), threading.Lock()

    def done(job: Future[Any]) -> None:
        with lock:
            left.discard(job)
            over = not left
        if over or (not return_exceptions and _error(job) is not None):
            enough.set()

    for job in tuple(left):
        job.add_done_callback(done)
    try:
        if jobs:
            await enough.come()
    except asyncio.CancelledError:
        for job in jobs:
            if isinstance(job, Job | WarmCall):
                job.abandon()
        raise
    return _outcomes(jobs, return_exceptions)


@act(_gather_aio)
def gather(*jobs: Future[Any], return_exceptions: bool = False) -> list[Any]:
    """The values of several jobs, in the order in which the jobs are given.

    Args:
        jobs: what `submit` gave: jobs, or calls of a warm run.
        return_exceptions: gives an exception in the place of a value, instead of raising the first that comes; the
            others go on either way.

    Raises:
        Exception: what the first to fail has raised.
        KeyboardInterrupt: there was one; the jobs are stopped, and their machines gone.
        SpecError: one of them is no job.
    """
    _ask(jobs)
    with interrupt.signals_as_interrupts():
        try:
            _enough(jobs, return_exceptions)
        except KeyboardInterrupt:
            running = [job for job in jobs if isinstance(job, Job) and not job.done()]
            if running:
                interrupt.stop_and_prove(running)
            raise
    return _outcomes(jobs, return_exceptions)


def _ask(jobs: Sequence[object]) -> None:
    """Who gathers jobs has asked for each, though the first failure may be all that comes of it."""
    for job in jobs:
        if not isinstance(job, Future):
            raise SpecError(f"gather takes jobs, as `f.submit(...)` gives them, not {shown(job)}")
    for job in jobs:
        if isinstance(job, Job):
            job.add_done_callback(_asked)


def _outcomes(jobs: Sequence[Future[Any]], return_exceptions: bool) -> list[Any]:
    if not return_exceptions:
        for job in jobs:
            if job.done() and (error := _error(job)) is not None:
                raise error
    return [_outcome(job) for job in jobs]


def _enough(jobs: Sequence[Future[Any]], return_exceptions: bool) -> None:
    """Waits for all, or for the first that fails."""
    when = (
        concurrent.futures.ALL_COMPLETED
        if return_exceptions
        else concurrent.futures.FIRST_EXCEPTION
    )

    def is_enough() -> bool:
        done = [job for job in jobs if job.done()]
        failed = not return_exceptions and any(_error(job) is not None for job in done)
        return failed or len(done) == len(jobs)

    def turn(turn_s: float) -> bool:
        # One that was cancelled before it began is done for whoever asks it, and not for `wait`.
        if not is_enough():
            concurrent.futures.wait([job for job in jobs if not job.done()], turn_s, when)
        return is_enough()

    wakeful.wait(turn)


def _error(job: Future[Any]) -> BaseException | None:
    """What one that is done has failed with; that it was cancelled is a failure, too."""
    try:
        return job.exception()
    except concurrent.futures.CancelledError as cancelled:
        return cancelled


def _asked(job: Future[Any]) -> None:
    if not job.cancelled():
        job.exception()


def _outcome(job: Future[Any]) -> Any:
    error = _error(job)
    if error is None:
        return job.result()
    if not isinstance(error, Exception):
        raise error
    return error
