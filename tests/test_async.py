"""Every verb can be awaited, the loop goes on meanwhile, and a task that is cancelled leaves no machine without a word."""

from __future__ import annotations

import asyncio
import functools
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

import dayfly
from dayfly import cluster
from dayfly.errors import DayflyError, JobStopped
from dayfly.runtime import at_exit
from dayfly.runtime.attend import Attendance
from dayfly.runtime.cluster import RemoteFunction
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.run_log import RunLog
from dayfly.runtime.verb import Act, Verb
from dayfly.stacks.workspace import Workspace
from tests.runs import closed, launched, opened


def begun(workspace: Workspace, work: Callable[[], Any]) -> Job[Any]:
    """A job whose work is done in this process, in its own thread."""
    job = Job[Any](workspace, Display.standard())
    job._known.set()
    job._begin(lambda: job._deliver(work))
    return job


def until_stopped(workspace: Workspace) -> Job[Any]:
    """A job that runs until it is stopped."""
    job = Job[Any](workspace, Display.standard())
    attendance = job._attendance = Attendance(job.display)

    def work() -> None:
        attendance._stopping.wait()
        raise JobStopped("as asked")

    job._known.set()
    job._begin(lambda: job._deliver(work))
    return job


def test_every_verb_that_blocks_has_an_awaitable_form() -> None:
    """Found by listing, so that a new one cannot be forgotten: what is public is a Verb, returns at once, or waits for what can be awaited."""
    at_once = {
        # A session is a block; in it `await s.submit(...)`. `map` is such a block, and no awaitable form could end its machine
        # at once where the awaiting task is cancelled.
        RemoteFunction: {
            "local",
            "with_options",
            "spec",
            "aio",
            "session",
            "map",
            "starmap",
            "map_unordered",
        },
        Job: {
            "id",
            "directory",
            "status",
            "cost",
            "display",
            "leak",
            "leave",
            "wait_closed",
            "detached",
            # What they wait for is the job's end, which can be awaited.
            "outputs",
            "result",
            "exception",
            "usage",
            "dashboard",
        }
        | {"start", "resume", "settled", "abandon", "begun"},
    }
    for kind, known in at_once.items():
        public = {name for name in vars(kind) if not name.startswith("_")}
        verbs = {name for name in public if isinstance(vars(kind)[name], Verb)}
        assert public - verbs == known, kind
    assert isinstance(dayfly.attach, Act)
    assert Job.logs.__doc__


def test_a_function_with_an_awaitable_form_is_pickled_by_its_name(workspace: Workspace) -> None:
    """As before it had one; a job's own methods belong to their process."""
    assert pickle.loads(cloudpickle.dumps(dayfly.attach)) is dayfly.attach
    with pytest.raises(pickle.PicklingError, match="stop"):
        pickle.dumps(begun(workspace, lambda: 1).stop)


def test_a_job_can_be_awaited(workspace: Workspace) -> None:
    """Its value, or its exception."""

    async def use() -> None:
        assert await begun(workspace, lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            await begun(workspace, lambda: 1 // 0)
        jobs = [begun(workspace, functools.partial(abs, -n)) for n in range(20)]
        assert await asyncio.gather(*jobs) == list(range(20))

    asyncio.run(use())


def test_a_cancelled_await_stops_the_job_and_says_so(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """The task ends at once; the end of the process waits for the proof, as ever."""
    job = until_stopped(workspace)

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job, 0.01)

    asyncio.run(use())
    assert isinstance(job.exception(), JobStopped)
    assert "was cancelled: stopping the function, destroying the machine" in capfd.readouterr().err


def test_a_shielded_job_goes_on(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is stopped, nothing is said."""
    go = threading.Event()
    job = begun(workspace, go.wait)

    async def use() -> bool:
        shielded = asyncio.shield(job)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(shielded), 0.01)
        go.set()
        return bool(await shielded)

    assert asyncio.run(use())
    assert "cancelled" not in capfd.readouterr().err


def test_an_await_of_a_job_that_is_done_stops_nothing(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its value is there already."""
    job = begun(workspace, lambda: 1)
    job.result()
    job.abandon()
    assert not job._stopped
    assert capfd.readouterr().err == ""


@pytest.fixture
def logged(workspace: Workspace) -> tuple[Job[Any], RunLog, threading.Event]:
    """A job whose log is written by the test; it ends when the event is set."""
    go = threading.Event()
    run_id = opened(workspace)
    job = Job[Any](workspace, Display.silent())
    job._id = run_id
    job._known.set()
    job._begin(lambda: job._deliver(go.wait))
    return job, RunLog(job.directory, Display.silent(), job._news.ring), go


@pytest.mark.parametrize("awaited", [False, True])
def test_a_log_is_followed_as_it_grows(
    logged: tuple[Job[Any], RunLog, threading.Event], awaited: bool
) -> None:
    """Each line when it comes, by a thread and by a task; the next is written only when the last was seen."""
    job, log, go = logged
    seen = list[str]()

    def write_next() -> None:
        number = len(seen)
        if number < 5:
            log.take("stdout", 0, f"line {number}\n".encode())
        elif number == 5:
            log.take("stderr", 0, b"without an end")
            go.set()

    async def by_a_task() -> None:
        async for line in job.logs.aio(follow=True):
            seen.append(line)
            write_next()

    with log:
        write_next()
        if awaited:
            asyncio.run(by_a_task())
        else:
            for line in job.logs(follow=True):
                seen.append(line)
                write_next()
    assert seen == [*(f"line {n}" for n in range(5)), "without an end"]


def test_a_log_of_more_than_a_piece_comes_whole(
    logged: tuple[Job[Any], RunLog, threading.Event],
) -> None:
    """By lines, whatever their number."""
    job, log, go = logged
    lines = [f"{n} {'x' * 100}" for n in range(30_000)]
    with log:
        log.take("stdout", 0, "\n".join(lines).encode())
    go.set()
    assert list(job.logs()) == lines


def test_a_receipt_is_awaited(workspace: Workspace) -> None:
    """With patience; what is not closed yet is a TimeoutError, and what nothing was created for has none."""
    run_id = opened(workspace)
    launched(workspace, run_id)
    closed(workspace, run_id)
    settled = Job.settled(workspace, Display.silent(), run_id, lambda: 1)
    running = until_stopped(workspace)

    async def use() -> None:
        assert (await settled.receipt.aio()).run == run_id
        with pytest.raises(TimeoutError, match="not closed yet"):
            await running.receipt.aio(timeout=0.01)
        await running.stop.aio()
        with pytest.raises(DayflyError, match="nothing was created"):
            await running.receipt.aio()

    asyncio.run(use())


class Slow:
    """An argument that is pickled for as long as the test likes."""

    begun, go = threading.Event(), threading.Event()

    def __reduce__(self) -> Any:
        self.begun.set()
        self.go.wait()
        return (int, ())


@pytest.mark.process
def test_a_call_that_is_cancelled_while_it_is_prepared_creates_nothing(
    workspace: Workspace,
) -> None:
    """The loop goes on meanwhile, and the thread that prepared it leaves it at that."""
    f = cluster(provider="local", environment=[])(abs)

    async def use() -> None:
        argument: Any = Slow()
        calling = asyncio.create_task(f.aio(argument))
        while not Slow.begun.is_set():
            await asyncio.sleep(0.01)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        Slow.go.set()

    asyncio.run(use())
    for thread in threading.enumerate():
        if thread.name == "dayfly-aside":
            thread.join()
    assert list(workspace.runs.iterdir()) == []
    assert not at_exit.open_jobs


_INTERRUPTED = """
import asyncio, os, signal, threading
from dayfly.errors import JobStopped
from dayfly.runtime.attend import Attendance
from dayfly.runtime.context import Context
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job

job = Job(Context.open().workspace, Display.standard())
job._attendance = Attendance(job.display)
job._known.set()


def work():
    job._attendance._stopping.wait()
    print("stopped", flush=True)
    raise JobStopped("as asked")


async def main():
    job._begin(lambda: job._deliver(work))
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
    await job

asyncio.run(main())
"""


@pytest.mark.process
def test_ctrl_c_under_asyncio_stops_the_job_and_waits_for_it() -> None:
    """Exactly as without it: said, stopped once, ended by the signal."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stdout == "stopped\n"
    assert "stopping the function, destroying the machine" in done.stderr
