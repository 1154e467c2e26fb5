"""A Job in many hands: stopped once whoever asks, let go of when its function runs, and never in two states."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import (
    BudgetExceeded,
    DayflyError,
    Detached,
    GpuUnfit,
    JobStopped,
    KeeperMissing,
    KeptMachineLost,
    ProvisionFailed,
    SpecError,
    UnknownRun,
)
from dayfly.infra.spec import Spec
from dayfly.runtime.attend import Attendance
from dayfly.runtime.call import Call
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.workspace import Workspace
from tests.runs import opened

_THREADS = 20
WAIT_S = 20.0


class Attended(Attendance):
    """An attendance whose machine is this process: it runs until it is stopped, or let go of."""

    def __init__(self, job: Job[Any], workspace: Workspace) -> None:
        super().__init__(Display.silent(), news=job._news.ring)
        self.stops = 0
        self.over = threading.Event()
        directory = workspace.directory(opened(workspace))
        self.run_stack = SimpleNamespace(  # type: ignore[assignment]
            id=directory.name, directory=directory, needs_closing=False, receipt=None
        )
        job._stack, job._id = self.run_stack, directory.name
        job._attendance = self

    def run(self, before: Callable[[], object] = lambda: None) -> None:
        """What a job's own thread does."""
        before()
        self._following = True
        self._news()
        self.over.wait()
        raise Detached("let go") if self._detaching.is_set() else JobStopped("as asked")

    def stop(self) -> None:
        self.stops += 1
        self._stopping.set()
        self.over.set()

    def detach(self) -> None:
        self._detaching.set()
        self.over.set()


@pytest.fixture
def job(workspace: Workspace) -> Job[Any]:
    """Not begun yet."""
    return Job(workspace, Display.silent())


def begin(job: Job[Any], work: Callable[[], Any]) -> None:
    job._known.set()
    alone = job._attendance is None
    job._begin(lambda: job._deliver(work) if alone else job._settle(work, last=True))


def together(work: Callable[[], Any], threads: int = _THREADS) -> list[Any]:
    """The same in many threads at once; what came of each."""
    start = threading.Barrier(threads)

    def one(_: int) -> Any:
        start.wait()
        return work()

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def test_a_job_is_stopped_once_by_whoever_asks(job: Job[Any], workspace: Workspace) -> None:
    """Twenty threads ask; the machine is asked once, the journal says it once, and all come back."""
    attended = Attended(job, workspace)
    begin(job, attended.run)
    together(job.stop)
    assert attended.stops == 1
    assert isinstance(job.exception(), JobStopped)
    events = [event.name for event in journal.read(attended.directory).events]
    assert events.count("cancelled") == 1
    job.stop()
    assert attended.stops == 1


def test_an_outcome_is_set_where_no_further_thread_can_be_had(
    job: Job[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits hears of it, and callbacks are called by the job's own thread."""
    start, heard = threading.Thread.start, queue.SimpleQueue[str]()

    def refused(self: threading.Thread) -> None:
        if self.name == "dayfly-callbacks":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)
    job.add_done_callback(lambda _: heard.put(threading.current_thread().name))
    begin(job, lambda: 7)
    assert job.result(20) == 7
    assert heard.get(timeout=20) == "dayfly-job"


def test_many_threads_use_one_job(job: Job[Any], workspace: Workspace) -> None:
    """Status, log, cost, cancel, callbacks and result, all at once, while it runs and ends."""
    attended, called = Attended(job, workspace), queue.SimpleQueue[object]()
    begin(job, attended.run)

    def use() -> tuple[type, list[str]]:
        job.add_done_callback(called.put)
        assert not job.cancel()
        assert job.status() in ("queued", "failed")
        assert job.cost() == 0.0
        job.stop()
        return type(job.exception()), list(job.logs(follow=True))

    assert together(use) == [(JobStopped, [])] * _THREADS
    assert [called.get(timeout=WAIT_S) for _ in range(_THREADS)] == [job] * _THREADS
    assert called.empty()


@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_may_take_its_time_and_wait_for_the_proof(
    job: Job[Any], workspace: Workspace, fails: bool
) -> None:
    """It runs beside the teardown: no machine is paid for while it does."""
    attended, heard = Attended(job, workspace), queue.SimpleQueue[bool]()
    job.add_done_callback(lambda _: heard.put(job._closed.wait(WAIT_S)))

    def work() -> Any:
        # The caller gets the value, and leaving the stack destroys the machine behind that.
        return attended._handed_over(lambda: dict[str, int]()["mine"] if fails else 7)

    begin(job, work)
    assert isinstance(job.exception(WAIT_S), KeyError if fails else type(None))
    assert heard.get(timeout=2 * WAIT_S)


def test_a_job_that_was_cancelled_before_it_ran_has_created_nothing(job: Job[Any]) -> None:
    """It says so, and stopping it is nothing; a callback that stops it does not wait for itself."""
    job.add_done_callback(lambda _: job.stop())
    job.stop()
    begin(job, lambda: pytest.fail("it ran"))
    job.wait_closed()
    assert job.cancelled()
    assert job.status() == "cancelled"
    assert job.id == ""
    assert list(job.logs(follow=True)) == []
    assert job.cost() == 0.0
    with pytest.raises(UnknownRun, match="has no run"):
        _ = job.directory
    with pytest.raises(DayflyError, match="nothing was created"):
        job.receipt()


def test_a_job_is_let_go_of_once_its_function_runs(job: Job[Any], workspace: Workspace) -> None:
    """Not before, however many ask, and never twice."""
    attended, started = Attended(job, workspace), threading.Event()
    begin(job, lambda: attended.run(started.wait))
    waiting = threading.Thread(target=job.detach)
    waiting.start()
    assert not attended._detaching.is_set()
    started.set()
    assert together(job.detach) == [job.id] * _THREADS
    waiting.join()
    assert job.detached
    job.wait_closed()
    assert job.status() == "detached"
    with pytest.raises(Detached):
        job.result()
    assert job.detach() == job.id


def test_stopping_a_job_that_was_let_go_of_tells_the_keeper(
    job: Job[Any], workspace: Workspace
) -> None:
    """By its journal; nothing is asked of the machine from here."""
    attended = Attended(job, workspace)
    begin(job, attended.run)
    job.detach()
    job.stop()
    assert attended.stops == 0
    assert journal.read(attended.directory).last("cancelled") is not None


def test_what_fails_before_its_function_runs_cannot_be_let_go_of(job: Job[Any]) -> None:
    """Whoever wants to leave is told."""

    def fail() -> None:
        raise ProvisionFailed("refused", "quota")

    begin(job, fail)
    with pytest.raises(ProvisionFailed, match="refused"):
        job.detach()


def test_what_has_ended_before_it_is_let_go_of_has_its_value(job: Job[Any]) -> None:
    """Nobody has to come back for it."""
    begin(job, lambda: 7)
    job.result()
    job.detach()
    assert (job.detached, job.result()) == (False, 7)


def test_a_job_that_cannot_be_left_to_a_keeper_goes_on(
    job: Job[Any], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And can still be stopped."""
    attended = Attended(job, workspace)

    def refuse() -> None:
        raise KeeperMissing("none here")

    monkeypatch.setattr(attended, "detach", refuse)
    begin(job, attended.run)
    with pytest.raises(KeeperMissing):
        job.detach()
    assert not job.done()
    job.stop()
    assert isinstance(job.exception(), JobStopped)


@pytest.mark.process
def test_what_is_submitted_is_what_it_was_then(engine: Engine) -> None:
    """The caller may change it while its machine comes up; one who waits for the value cannot, and nothing is copied."""
    remote = cluster(provider="local", environment=[])(len)
    array = bytearray(200_000)
    kept = Call.prepare(remote.__dayfly_function__, (array,), {}, remote.spec)
    borrowed = Call.prepare(remote.__dayfly_function__, (array,), {}, remote.spec, borrowed=True)
    before = bytes(kept.payload.task)
    assert bytes(borrowed.payload.task) == before
    array[:] = b"x" * len(array)
    assert bytes(kept.payload.task) == before
    assert bytes(borrowed.payload.task) != before


@pytest.mark.process
def test_twenty_threads_prepare_calls_at_once(engine: Engine) -> None:
    """Each gets its own function and arguments; nothing of the one is in the other."""
    numbers = iter(range(_THREADS))
    lock = threading.Lock()

    def prepare() -> tuple[int, Any]:
        with lock:
            number = next(numbers)
        factor = 10 * number
        remote = cluster(provider="local", environment=[])(lambda x: x + factor)
        call = Call.prepare(remote.__dayfly_function__, (number,), {}, remote.spec)
        return number, call.payload.task

    tasks = dict(together(prepare))
    for number, task in tasks.items():
        function, args, kwargs = pickle.loads(bytes(task).partition(b"\n")[2])
        assert function(*args, **kwargs) == 11 * number


@pytest.mark.parametrize(
    "earlier",
    [
        ValueError("the function's own"),
        GpuUnfit("no GPU", check="count", found="none"),
        KeptMachineLost("gone", check="state", found="terminated"),
    ],
)
def test_an_attempt_that_no_budget_pays_for_leaves_the_error_of_the_one_before(
    job: Job[Any], workspace: Workspace, earlier: Exception
) -> None:
    """Why that one failed is what its caller has to know, and no other is made."""
    job._earlier = earlier
    refusal = BudgetExceeded("budget_per_day=$1")

    def refused() -> Any:
        raise refusal

    Attended(job, workspace)
    begin(job, refused)
    with pytest.raises(type(earlier)) as failed:
        job.result(10)
    assert failed.value is earlier
    assert "no further attempt: budget_per_day=$1" in earlier.__notes__[0]


@pytest.mark.parametrize("awaited", [False, True])
def test_a_port_of_any_machine_is_reached(
    job: Job[Any], workspace: Workspace, awaited: bool
) -> None:
    """By its number; one that there is not is refused with those that there are, before any machine is there."""
    attended = Attended(job, workspace)
    attended.run_stack.spec = Spec(nodes=2)  # type: ignore[union-attr]

    def forward(node: int) -> Any:
        if awaited:
            return asyncio.run(_awaited(job.forward.aio(8888, node=node)))
        return job.forward(8888, node=node)

    for wrong in (2, -1):
        with pytest.raises(SpecError, match=rf"node {wrong}: run .* has 2 machines, 0 to 1"):
            forward(wrong)
    first, second = (
        SimpleNamespace(others=(), forward=lambda *how, node=node: (node, *how[:2]))
        for node in range(2)
    )
    first.others = (second,)
    attended._session = first  # type: ignore[assignment]
    assert [forward(node) for node in (0, 1)] == [(0, 8888, 0), (1, 8888, 0)]


async def _awaited(what: Any) -> Any:
    return await what
