"""gather: the values of several jobs."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

import dayfly
from dayfly.errors import SpecError
from tests.warm import WAIT_S, within


def job(value: Any = None, error: BaseException | None = None) -> Future[Any]:
    """One that is done."""
    made: Future[Any] = Future()
    if error is not None:
        made.set_exception(error)
    else:
        made.set_result(value)
    return made


def test_values_come_in_the_order_of_the_jobs() -> None:
    """However many."""
    assert dayfly.gather() == []
    assert dayfly.gather(job(2), job(1)) == [2, 1]


def test_the_first_exception_is_raised_whatever_still_runs() -> None:
    """It does not wait for the others."""
    with pytest.raises(ValueError, match="bad"):
        dayfly.gather(Future(), job(error=ValueError("bad")))


def test_exceptions_take_the_place_of_values_where_that_is_asked_for() -> None:
    """But what is no Exception ends the program that waits, too."""
    one, two = dayfly.gather(job(1), job(error=ValueError("bad")), return_exceptions=True)
    assert one == 1
    assert isinstance(two, ValueError)
    with pytest.raises(SystemExit):
        dayfly.gather(job(error=SystemExit(3)), return_exceptions=True)


@pytest.mark.parametrize("told", [True, False], ids=["taken note of", "not yet"])
def test_a_job_that_was_cancelled_has_failed(told: bool) -> None:
    """Whether or not whoever would have run it has heard of that; nobody waits for the others."""
    cancelled: Future[Any] = Future()
    cancelled.cancel()
    if told:
        cancelled.set_running_or_notify_cancel()
    one, two = dayfly.gather(job(1), cancelled, return_exceptions=True)
    assert (one, type(two)) == (1, CancelledError)
    with pytest.raises(CancelledError):
        within(lambda: dayfly.gather(Future(), cancelled))
    with pytest.raises(CancelledError):
        asyncio.run(asyncio.wait_for(dayfly.gather.aio(Future(), cancelled), WAIT_S))
    assert asyncio.run(dayfly.gather.aio(job(1), return_exceptions=True)) == [1]
    (three,) = asyncio.run(dayfly.gather.aio(cancelled, return_exceptions=True))
    assert type(three) is CancelledError


def test_what_is_no_job_is_refused_by_name() -> None:
    """A value that was meant to be a job, say."""
    with pytest.raises(SpecError, match="not 3"):
        dayfly.gather(3)  # type: ignore[arg-type]
