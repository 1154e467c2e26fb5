"""Every verb can be awaited, the loop goes on meanwhile, and a task that is cancelled leaves no machine without a word."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

import dayfly
from dayfly import cluster
from dayfly.errors import DayflyError, JobExited, JobStopped, RunFailed, SpecError
from dayfly.infra.plan import PlannedCall
from dayfly.infra.spec import Spec
from dayfly.runtime import at_exit
from dayfly.runtime.attend import Attendance
from dayfly.runtime.cluster import RemoteFunction
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.run_log import RunLog
from dayfly.runtime.verb import Act, Verb
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_run import WarmRun
from dayfly.stacks.workspace import Workspace
from tests.runs import closed, launched, opened
from tests.warm import WAIT_S, Warm, warm


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
        # A session is a block: `async with`.
        RemoteFunction: {
            "local",
            "with_options",
            "as_planned",
            "spec",
            "policies",
            "aio",
            "session",
        },
        # What is told of a run while its block lasts is known by then.
        WarmRun: {"aio", "id", "dashboard", "slots", "directory", "status", "cost", "usage"}
        # Only after the block, when they are there.
        | {"outputs"},
        # What they wait for is the call, which can be awaited.
        WarmCall: {"result", "exception"}
        | {"add_done_callback", "tell", "settle", "settle_plain", "prepared", "fail", "abandon"},
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
        | {"start", "resume", "settled", "abandon", "begun", "block_failed"},
    }
    for kind, known in at_once.items():
        public = {name for name in vars(kind) if not name.startswith("_")}
        verbs = {name for name in public if isinstance(vars(kind)[name], Verb)}
        assert public - verbs == known, kind
    for verb in (dayfly.attach, dayfly.gather, dayfly.offers):
        assert isinstance(verb, Act)
    # `infra` has no Verb: what `plan.run` is has both forms itself.
    assert {"__call__", "aio"} <= set(vars(PlannedCall))
    assert isinstance(WarmRun(abs, Spec()), contextlib.AbstractAsyncContextManager)
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


def test_a_session_tells_of_its_run_as_a_job_does(
    logged: tuple[Job[Any], RunLog, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log, its use, what it has cost, its ports; what its calls have left comes with its end."""
    job, log, go = logged
    s: WarmRun[Any, Any] = WarmRun(abs, Spec())
    with pytest.raises(RunFailed, match="nothing has begun yet"):
        s.usage()
    s._job = job
    tunnels: list[tuple[Any, ...]] = []
    reached = SimpleNamespace(others=(), forward=lambda *how: tunnels.append(how[:2]))
    job._attendance = SimpleNamespace(reached=reached, phase="run")  # type: ignore[assignment]

    async def use() -> list[str]:
        await s.forward.aio(8888)
        return [line async for line in s.logs.aio()]

    with log:
        log.take("stdout", 0, b"1 | first\n2 | second\n")
        assert list(s.logs()) == asyncio.run(use()) == ["1 | first", "2 | second"]
    assert (s.status(), s.usage().run) == ("run", job.id)
    assert s.cost() == job.cost() or s.cost() > 0
    s.forward(8888, 9999)
    with pytest.raises(RunFailed, match="leave its `with` block"):
        s.outputs  # noqa: B018
    s._closed = True
    go.set()
    job.result()
    assert s.outputs == job.outputs
    with pytest.raises(RunFailed, match="has ended"):
        s.forward(8888)
    assert tunnels == [(8888, 0), (8888, 9999)]


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


# -- the calls of a session


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One run for every test that leaves it open."""
    with warm(tmp_path_factory.mktemp("warm")) as run:
        yield run
        assert run.end().how == "finished"


def session(run: Warm, workspace: Workspace, function: Callable[..., Any]) -> WarmRun[Any, Any]:
    """The session that has this run, without a stack: its job is the one on the machine."""
    made: WarmRun[Any, Any] = WarmRun(function, Spec())
    made._calls = run.calls(function)
    made._ready.set()
    made._job = begun(workspace, lambda: run.session.follow(lambda *_: None))
    made._job.add_done_callback(made._job_done)
    return made


def calls_of(run: Warm, workspace: Workspace, function: Callable[..., Any]) -> WarmRun[Any, Any]:
    """As `session`, of a run that goes on after the test."""
    made: WarmRun[Any, Any] = WarmRun(function, Spec())
    made._calls = run.calls(function)
    made._job = Job(workspace, Display.silent())
    return made


def waits(begun: Path, go: Path) -> int:
    """Runs until a file is there."""
    begun.touch()
    while not go.exists():
        time.sleep(0.005)
    return os.getpid()


@pytest.mark.sshd
def test_calls_are_awaited_and_the_loop_goes_on(
    machine: Warm, workspace: Workspace, tmp_path: Path
) -> None:
    """One waits for what another task of the same loop does; what cannot be called so is refused."""
    s = calls_of(machine, workspace, waits)

    async def use() -> None:
        call = await s.submit.aio(tmp_path / "begun", tmp_path / "go")
        waiting = asyncio.ensure_future(call)
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.005)
        (tmp_path / "go").touch()
        assert await waiting == call.result(0) > 0
        assert await s.aio(tmp_path / "begun", go=tmp_path / "go") > 0
        with pytest.raises(DayflyError, match="cannot be called so"):
            await s.aio()

    asyncio.run(use())


@pytest.mark.sshd
def test_a_cancelled_await_of_a_call_stops_it_and_a_shield_does_not(
    machine: Warm, workspace: Workspace, tmp_path: Path
) -> None:
    """The other calls, and the run, go on."""
    s = calls_of(machine, workspace, waits)

    async def use() -> WarmCall[Any]:
        shielded = asyncio.shield(await s.submit.aio(tmp_path / "a", tmp_path / "go"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(shielded), 0.01)
        stopped = await s.submit.aio(tmp_path / "b", tmp_path / "never")
        while not (tmp_path / "b").exists():
            await asyncio.sleep(0.005)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stopped, 0.01)
        (tmp_path / "go").touch()
        assert await shielded > 0
        return stopped

    assert isinstance(asyncio.run(use()).exception(WAIT_S), JobStopped)

    async def stop() -> None:
        call = await s.submit.aio(tmp_path / "c", tmp_path / "never")
        await call.stop.aio()
        with pytest.raises(JobStopped):
            await call

    asyncio.run(stop())


@pytest.mark.sshd
def test_a_map_is_iterated_by_a_task(machine: Warm, workspace: Workspace, tmp_path: Path) -> None:
    """In the items' order or as they come, several at once, with further attempts; what fails is raised or given."""

    def function(number: int, more: int = 0) -> int:
        if number < 0:
            marker = tmp_path / str(number)
            if not marker.exists():
                marker.touch()
                os._exit(3)
        if number == 100:
            raise KeyError("mine")
        return number + more

    s = calls_of(machine, workspace, function)

    async def squares() -> list[int]:
        return [value async for value in s.map.aio(range(50), range(50), max_concurrency=7)]

    async def use() -> None:
        both = await asyncio.gather(squares(), squares())
        assert [*both] == [[2 * n for n in range(50)]] * 2
        unordered = [value async for value in s.map_unordered.aio(range(20))]
        assert sorted(unordered) == list(range(20))
        star = s.starmap.aio([(1, 2), (3, 4)])
        assert [value async for value in star] == [3, 7]
        assert [value async for value in s.map.aio([-1, -2, 5], retries=1)] == [-1, -2, 5]
        given = [v async for v in s.map.aio([1, 100, -3], return_exceptions=True)]
        assert [type(value) for value in given] == [int, KeyError, JobExited]
        with pytest.raises(KeyError, match="mine"):
            [value async for value in s.map.aio([100, 1])]
        with pytest.raises(SpecError, match="retries=-1"):
            await anext(s.map.aio([1], retries=-1))
        assert [value async for value in s.map.aio([])] == []

    asyncio.run(use())


@pytest.mark.sshd
@pytest.mark.parametrize("how", ["left early", "cancelled"])
def test_what_is_left_of_a_map_is_stopped(
    machine: Warm, workspace: Workspace, tmp_path: Path, how: str
) -> None:
    """And nothing more of it is begun."""

    def function(number: int) -> int:
        (tmp_path / f"begun-{number}").touch()
        if number:
            time.sleep(600)
        return number

    s = calls_of(machine, workspace, function)

    async def use() -> None:
        async with contextlib.aclosing(s.map.aio(range(10))) as values:
            assert await anext(values) == 0
            while not (tmp_path / "begun-1").exists():
                await asyncio.sleep(0.005)
            if how == "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(values), 0.01)

    asyncio.run(use())
    # Both slots are free again.
    assert machine.map(abs, [-1, -2]) == [1, 2]
    assert len(list(tmp_path.glob("begun-*"))) < 10


@pytest.mark.sshd
def test_jobs_and_calls_are_gathered_and_stopped_with_the_task(
    machine: Warm, workspace: Workspace, tmp_path: Path
) -> None:
    """Their values in order, or the first exception; a task that is cancelled meanwhile stops all of them."""
    s = calls_of(machine, workspace, waits)
    job, plain = until_stopped(workspace), concurrent.futures.Future[int]()

    async def use() -> WarmCall[Any]:
        assert await dayfly.gather.aio() == []
        jobs = [begun(workspace, functools.partial(abs, -n)) for n in (2, 1)]
        assert await dayfly.gather.aio(*jobs, jobs[0]) == [2, 1, 2]
        failed = begun(workspace, lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await dayfly.gather.aio(job, failed)
        given = await dayfly.gather.aio(jobs[0], failed, return_exceptions=True)
        assert [type(value) for value in given] == [int, ZeroDivisionError]
        with pytest.raises(SpecError, match="not 3"):
            await dayfly.gather.aio(3)  # type: ignore[arg-type]
        call = await s.submit.aio(tmp_path / "begun", tmp_path / "never")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dayfly.gather.aio(job, call, plain), 0.01)
        return call

    call = asyncio.run(use())
    assert isinstance(call.exception(WAIT_S), JobStopped)
    assert isinstance(job.exception(), JobStopped)
    assert not plain.done()


@pytest.mark.sshd
def test_a_session_that_is_left_waits_for_its_calls_without_the_loop(
    workspace: Workspace, tmp_path: Path
) -> None:
    """The run has ended by then, and takes no more; closing twice is fine."""
    with warm(tmp_path) as run:
        s = session(run, workspace, waits)

        async def use() -> WarmCall[Any]:
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_exit(s)
                call = await s.submit.aio(tmp_path / "begun", tmp_path / "go")
                # When the block is left already.
                asyncio.get_running_loop().call_later(0.05, (tmp_path / "go").touch)
            await s.close.aio()
            return call

        call = asyncio.run(use())
        assert call.result(0) > 0
        assert s._running.result().how == "finished"
        with pytest.raises(RunFailed, match="takes no more calls"):
            s.submit(tmp_path / "begun", tmp_path / "go")


@pytest.mark.sshd
@pytest.mark.parametrize("where", ["in the block", "at its end"])
def test_a_session_whose_task_is_cancelled_is_ended_behind_it(
    workspace: Workspace, tmp_path: Path, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The task ends at once, with a word; its calls are stopped, and the run ends on the machine."""
    with warm(tmp_path) as run:
        s = session(run, workspace, waits)
        calls: list[WarmCall[Any]] = []

        async def work() -> None:
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_exit(s)
                calls.append(await s.submit.aio(tmp_path / "begun", tmp_path / "never"))
                if where == "in the block":
                    await asyncio.Event().wait()

        async def use() -> None:
            task = asyncio.create_task(work())
            while not (calls and (tmp_path / "begun").exists()):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(use())
        assert isinstance(calls[0].exception(WAIT_S), JobStopped)
        assert s._running.result(WAIT_S).how == "finished"
        assert (
            "the task of this session was cancelled: stopping its calls" in capfd.readouterr().err
        )


@pytest.mark.sshd
def test_an_error_in_a_session_is_seen_when_its_calls_are_stopped(
    workspace: Workspace, tmp_path: Path
) -> None:
    """As in a `with` block: the block's own error is the one that comes out."""
    with warm(tmp_path) as run:
        s = session(run, workspace, waits)

        async def use() -> WarmCall[Any]:
            call = await s.submit.aio(tmp_path / "begun", tmp_path / "never")
            with pytest.raises(KeyError, match="mine"):
                async with contextlib.AsyncExitStack() as stack:
                    stack.push_async_exit(s)
                    raise KeyError("mine")
            return call

        call = asyncio.run(use())
        assert isinstance(call.exception(0), JobStopped)
        assert s._running.done()
