"""Waiting: an interrupt ends it, whichever thread the kernel gave the signal to."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dayfly
from dayfly.infra.spec import Spec
from dayfly.runtime import wakeful
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.surface import Pipe
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_map import WarmMap
from dayfly.runtime.warm_run import WarmRun
from dayfly.stacks.settings import Settings
from dayfly.stacks.workspace import Workspace

LONG_S = 20.0


@pytest.fixture
def job(clean_environment: Path) -> Iterator[Job[int]]:
    """One that nobody has begun."""
    display = Display(Pipe())
    yield Job(Workspace.open(Settings({})), display)
    display.done()


@pytest.fixture
def interrupted_elsewhere() -> Iterator[None]:
    """A thread that is given a SIGINT while the main thread sleeps."""

    def hear() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        over.wait(LONG_S)

    over = threading.Event()
    thread = threading.Thread(target=hear)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize(
    "verb",
    [
        lambda job: job.result(LONG_S),
        lambda job: job.exception(LONG_S),
        lambda job: job.receipt(LONG_S),
        lambda job: job.wait_closed(),
        lambda job: job.id,
        lambda job: list(job.logs(follow=True)),
    ],
    ids=["result", "exception", "receipt", "wait_closed", "id", "logs"],
)
@pytest.mark.usefixtures("interrupted_elsewhere")
def test_a_signal_that_another_thread_was_given_ends_the_wait(
    job: Job[int], verb: Callable[[Job[int]], Any]
) -> None:
    """A first Ctrl-C was lost so, about once in sixteen, and the function went on to its end."""
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        verb(job)
    assert time.monotonic() - begun < LONG_S / 2


@pytest.fixture
def call() -> Iterator[WarmCall[Any]]:
    """One of a warm run that comes to no end in time."""
    made: WarmCall[Any] = WarmCall(1, "0" * 32, lambda _: None, 0.0)
    late = threading.Timer(LONG_S, made.fail, [TimeoutError("nothing has ended the wait")])
    late.start()
    yield made
    late.cancel()


def mapped(call: WarmCall[Any]) -> WarmMap[Any]:
    """A map of one item, which that call is."""
    there = SimpleNamespace(
        slots=1,
        over=None,
        new_group=lambda: 1,
        submit_all=lambda calls, **_: [call for _ in calls],
    )
    return WarmMap(there, [()], total=1, ordered=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "verb",
    [
        lambda call: call.result(),
        lambda call: call.exception(),
        dayfly.gather,
        lambda call: dayfly.gather(call, return_exceptions=True),
        lambda call: list(mapped(call).results()),
    ],
    ids=["result", "exception", "gather", "gather all", "map"],
)
@pytest.mark.usefixtures("interrupted_elsewhere")
def test_it_ends_a_wait_for_a_call_of_a_session_too(
    call: WarmCall[Any], verb: Callable[[WarmCall[Any]], Any]
) -> None:
    """By itself, with others, or as the item of a map."""
    with pytest.raises(KeyboardInterrupt):
        verb(call)
    assert not call.done()


@pytest.mark.usefixtures("interrupted_elsewhere")
def test_a_call_whose_wait_was_interrupted_is_stopped(job: Job[int]) -> None:
    """Nobody else has its handle; the session, and whatever else it makes, goes on."""
    stopped = list[int]()
    call: WarmCall[Any] = WarmCall(7, "0" * 32, stopped.append, 0.0)
    late = threading.Timer(LONG_S, call.fail, [TimeoutError("nothing has ended the wait")])
    late.start()
    s: WarmRun[Any, Any] = WarmRun(abs, Spec())
    s._job = job
    s._calls = SimpleNamespace(submit_all=lambda calls: [call for _ in calls])  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        s(-1)
    late.cancel()
    for thread in threading.enumerate():
        if thread.name == "dayfly-stop":
            thread.join()
    assert stopped == [7]


def test_a_wait_is_over_in_time_and_not_before() -> None:
    """With a bound shorter than a turn, longer, and none."""
    event = threading.Event()
    for bound_s in (0.0, wakeful.TURN_S / 5, wakeful.TURN_S * 1.5):
        begun = time.monotonic()
        assert not wakeful.wait(event.wait, bound_s)
        assert time.monotonic() - begun >= bound_s
    event.set()
    assert wakeful.wait(event.wait)
    assert wakeful.wait(event.wait, 0.0)


def test_the_functions_own_timeout_error_is_no_timeout_of_the_wait(job: Job[int]) -> None:
    """It is told at once, also where nobody set a bound."""
    own = TimeoutError("the function's own")
    job.set_exception(own)
    assert job.exception() is own
    with pytest.raises(TimeoutError, match="the function's own"):
        job.result()
