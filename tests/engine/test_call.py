"""The main job with the real engine, a real sshd and a real process: what comes back, whatever the function does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly import cluster
from dayfly.errors import (
    DeadlineReached,
    EnvironmentFailed,
    Forged,
    JobExited,
    JobKilled,
    JobStopped,
    PlanChanged,
    RunFailed,
    UnpicklableResult,
)
from dayfly.infra import providers
from dayfly.infra.run import new_id
from dayfly.runtime import ledger, show
from dayfly.runtime.context import Context
from dayfly.runtime.stored import RESULT
from dayfly.stacks import journal

pytestmark = [pytest.mark.engine, pytest.mark.sshd]
remote = cluster(provider="local", environment=[], time="10m")


class Own(Exception):
    """An exception of the user's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def left() -> list[Any]:
    """What the provider still lists of this test's owner."""
    return list(providers.load("local").inventory(Context.open().workspace.owner))


@pytest.mark.tried("local", "real")
def test_a_value_comes_back_with_log_receipt_and_story(capfd: pytest.CaptureFixture[str]) -> None:
    """One run, looked at from every side."""

    @remote
    def f(x: int, *, y: int) -> dict[str, Any]:
        print("on stdout", flush=True)
        print("on stderr", file=sys.stderr, flush=True)
        return {
            "sum": x + y,
            "pid": os.getpid(),
            "home": os.environ["HOME"],
            "run": os.environ["DAYFLY_RUN"],
        }

    job = f.submit(3, y=4)
    value = job.result(timeout=120)
    receipt = job.receipt(timeout=120)
    assert value["sum"] == 7
    assert value["pid"] != os.getpid()
    assert value["run"] == job.id
    assert value["home"] != os.environ.get("HOME")
    assert (receipt.destroyed, receipt.declared, receipt.left, receipt.how) == (2, 2, 0, "pulumi")
    assert job.cost() == receipt.usd == 0.0
    (line,) = map(json.loads, (job.directory / ledger.FILE).read_text().splitlines())
    assert (line["call"], line["outcome"]) == (1, "value")
    for name in ("pickle_s", "upload_s", "run_s", "download_s", "argument_bytes", "peak_rss_bytes"):
        assert line[name] > 0, name
    assert line["total_s"] > line["pickle_s"] + line["upload_s"] + line["run_s"]
    calls = dict(show.paragraphs(show.story(journal.read(job.directory))))["calls"]
    assert dict(calls)["made"] == "1, 0 of them without a value"
    assert sorted(job.logs()) == ["on stderr", "on stdout"]
    assert job.status() == "done"
    shown = capfd.readouterr()
    assert "on stdout" in shown.out
    assert "on stderr" in shown.err
    assert left() == []
    history = journal.read(job.directory)
    names = [event.name for event in history.events]
    story = [
        "intent",
        "resources",
        "stack_created",
        "up_started",
        "launched",
        "machine",
        "connected",
        "job_started",
    ]
    story += ["job_ended", "result_fetched", "acknowledged", "closed"]
    assert [name for name in names if name in story] == story
    assert history.field("result", "provenance")["pid"] == value["pid"]
    assert not [
        name
        for name in ("user_key", "host_key", "machine", "project")
        if (job.directory / name).exists()
    ]
    assert dayfly.attach(job.id[:10]).result() == value


@pytest.mark.tried("local", "real")
def test_a_plan_is_run_as_planned(tmp_path: Path) -> None:
    """By itself, and from a file, as another process would; a plan of other options is refused."""

    @remote
    def square(x: int) -> int:
        return x * x

    plan = square.plan(7)
    assert plan.run() == 49
    plan.save(tmp_path / "plan.json")
    assert square.as_planned(tmp_path / "plan.json").submit(8).result(60) == 64
    with pytest.raises(PlanChanged, match="cores"):
        square.with_options(cores=1).as_planned(plan)(9)
    assert left() == []


def test_the_function_s_own_exception_comes_back_as_itself_with_the_remote_traceback() -> None:
    """With source lines, though the file is not on the machine; another thread, which calls at the same time, gets its value."""

    @remote
    def f(n: int) -> int:
        if n == 7:
            raise Own(n)  # this very line
        return n

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        good, bad = threads.submit(f, 1), threads.submit(f, 7)
        with pytest.raises(Own) as caught:
            bad.result(timeout=200)
        assert good.result(timeout=200) == 1
    assert caught.value.code == 7
    notes = "\n".join(caught.value.__notes__)
    assert "raise Own(n)  # this very line" in notes


def _value(case: str) -> Any:
    import ctypes
    import threading as threads

    if case == "lock":
        return threads.Lock()
    if case == "segfault":
        return ctypes.string_at(0)
    if case == "os._exit":
        os._exit(5)
    if case == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "thread":
        threads.Thread(target=time.sleep, args=(600,), name="forgotten").start()
        return "done"
    if case == "memory":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return len(bytearray(8 << 30))
    raise AssertionError(case)


@pytest.mark.long
def test_every_unusual_end_has_its_own_outcome() -> None:
    """Six ways to end, side by side; none is mistaken for another, none leaves anything. (The others: test_session, test_outcome.)"""
    expected: dict[str, tuple[type[BaseException], str]] = {
        "lock": (UnpicklableResult, "lock"),
        "segfault": (JobKilled, "signal 11"),
        "os._exit": (JobExited, "code 5"),
        "kill": (JobKilled, "signal 9"),
        "memory": (MemoryError, ""),
    }
    function = remote(_value)
    jobs = {case: function.submit(case) for case in [*expected, "thread"]}
    for case, (kind, words) in expected.items():
        error = jobs[case].exception(timeout=300)
        assert isinstance(error, kind), (case, error)
        assert words in str(error), (case, error)
    assert jobs["thread"].result(timeout=300) == "done"
    assert "forgotten" in "\n".join(jobs["thread"].logs())
    assert "Segmentation fault" in str(jobs["segfault"].exception())
    killed = jobs["kill"].exception()
    assert isinstance(killed, JobKilled)
    assert not killed.out_of_memory
    for job in jobs.values():
        assert job.receipt(timeout=300).left == 0
    assert left() == []


def test_stop_ends_a_running_function_and_every_process_of_it() -> None:
    """And `cancel` keeps the Future's contract: too late once it runs."""

    @remote
    def f() -> None:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("sleeping", flush=True)
        time.sleep(600)

    job = f.submit()
    for line in job.logs(follow=True):
        if line == "sleeping":
            break
    assert not job.cancel()
    job.stop()
    with pytest.raises(JobStopped):
        job.result(timeout=120)
    job.receipt(timeout=120)
    assert left() == []


def test_a_job_stopped_while_its_machine_comes_up_leaves_nothing() -> None:
    """The creation in flight is recorded, then destroyed."""
    job = remote(time.sleep).submit(1)
    assert job.id
    job.stop()
    with pytest.raises(JobStopped):
        job.result(timeout=120)
    assert job.receipt(timeout=120).left == 0
    assert left() == []


@pytest.mark.long
def test_the_deadline_ends_the_function_and_says_so() -> None:
    """The log and the reason come home before the machine ends."""

    @cluster(environment=[], time=15)
    def f() -> None:
        print("before", flush=True)
        time.sleep(600)

    job = f.submit()
    with pytest.raises(DeadlineReached, match="max_runtime"):
        job.result(timeout=120)
    assert next(iter(job.logs())) == "before"
    job.receipt(timeout=120)


def test_secrets_reach_the_function_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, clean_environment: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not the state, not a log, not a file, not an argument; where the function prints it, it is masked at its length, on the
    screen and in the log that is kept."""
    canary = new_id()
    monkeypatch.setenv("TEST_TOKEN", canary)

    @cluster(environment=[], secrets=["TEST_TOKEN"], wait_for_teardown=False)
    def f() -> tuple[int, str]:
        token = os.environ["TEST_TOKEN"]
        machine = Path(os.environ["HOME"]).parent
        files = [file for file in machine.rglob("*") if file.is_file()]
        seen = [str(file) for file in files if token.encode() in file.read_bytes()]
        print("token", token)
        return len(token), ",".join(seen)

    job = f.submit()
    length, files_there = job.result(timeout=120)
    assert length == len(canary)
    assert files_there == "", files_there
    job.receipt(timeout=120)
    assert list(job.logs()) == ["token " + "*" * len(canary)]
    assert canary not in "".join(capfd.readouterr())
    for file in clean_environment.rglob("*"):
        if file.is_file():
            assert canary.encode() not in file.read_bytes(), file


def test_wait_for_teardown_returns_with_the_receipt_written() -> None:
    """The call itself waits for the proof. A result file that was tampered with since is never unpickled: authentic for this
    run, or not touched."""
    job = cluster(environment=[], wait_for_teardown=True)(abs).submit(-3)
    assert job.result(timeout=120) == 3
    assert job.receipt(timeout=0.5).left == 0
    file = job.directory / RESULT
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(Forged):
        dayfly.attach(job.id).result()


def _power(n: int) -> int:
    return 1 << n


def test_jobs_are_futures_and_can_be_awaited() -> None:
    """`as_completed` and `await` both take them; a callback is called with the job, and may wait for its receipt: the machine is
    destroyed meanwhile, and not behind it."""
    jobs = [remote(_power).submit(n) for n in (3, 5)]
    called: queue.SimpleQueue[object] = queue.SimpleQueue()
    receipts: queue.SimpleQueue[int] = queue.SimpleQueue()
    jobs[0].add_done_callback(called.put)
    jobs[1].add_done_callback(lambda _: receipts.put(jobs[1].receipt(timeout=100).left))
    assert {job.result() for job in concurrent.futures.as_completed(jobs, timeout=200)} == {8, 32}

    async def awaited() -> int:
        return await jobs[1]

    assert asyncio.run(awaited()) == 32
    assert called.get(timeout=20) is jobs[0]
    assert receipts.get(timeout=120) == 0
    for job in jobs:
        job.receipt(timeout=120)


@pytest.mark.network
@pytest.mark.tried("local", "real")
def test_a_requirement_that_does_not_exist_is_named_by_the_resolver_and_leaves_nothing() -> None:
    """In the environment phase, with the machine destroyed."""

    @cluster(environment=["no-such-distribution-4f1d9a7e"])
    def f() -> None: ...

    job = f.submit()
    with pytest.raises(EnvironmentFailed, match="no-such-distribution-4f1d9a7e"):
        job.result(timeout=200)
    assert job.receipt(timeout=120).left == 0


def test_a_module_that_is_not_there_is_found_before_the_function_starts(tmp_path: Path) -> None:
    """With the name of what to add."""
    marker = tmp_path / "started"

    @remote
    def f(path: str) -> None:
        with open(path, "w"):  # noqa: PTH123
            pass
        import sklearn  # noqa: F401

    with pytest.raises(EnvironmentFailed, match="scikit-learn"):
        f(str(marker))
    assert not marker.exists()


@pytest.mark.tried("local", "real")
def test_a_killed_client_s_run_can_be_attached_to(tmp_path: Path, workspace: Any) -> None:
    """SIGKILL in the middle of the function: log and result come whole, in another process."""
    script = tmp_path / "client.py"
    script.write_text(
        "import time\nfrom dayfly import cluster\n"
        "@cluster(environment=[])\ndef f():\n"
        "    for n in range(30):\n        print('line', n, flush=True); time.sleep(0.1)\n"
        "    return bytes(range(256)) * 1000\n"
        "f()\n"
    )
    client = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert client.stdout is not None
    with client.stdout as lines:
        for _ in range(3):
            lines.readline()
    client.kill()
    client.wait()
    (history,) = journal.histories(workspace.runs)
    code = (
        "import dayfly, hashlib\n"
        f"job = dayfly.attach('{history.id}')\n"
        "print(hashlib.sha256(job.result()).hexdigest()); print(list(job.logs()) == [f'line {n}' for n in range(30)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    import hashlib

    assert done.stdout.splitlines()[-2:] == [
        hashlib.sha256(bytes(range(256)) * 1000).hexdigest(),
        "True",
    ]
    assert journal.read(history.directory).closed
    assert left() == []


def test_a_machine_that_disappears_is_an_instance_lost(workspace: Any) -> None:
    """Killed from outside in the middle of the function."""
    job = remote(time.sleep).submit(600)
    while journal.read(workspace.directory(job.id)).last("job_started") is None:
        time.sleep(0.05)
    local = providers.load("local")
    for found in local.inventory(workspace.owner):
        local.terminate(found)
    with pytest.raises(RunFailed):
        job.result(timeout=200)
    assert job.receipt(timeout=120).left == 0


@pytest.mark.long
def test_retries_make_further_attempts_of_one_lineage(workspace: Any, tmp_path: Path) -> None:
    """Without `retries=` the function starts at most once; with it each attempt is a run of its own, also where a machine has
    disappeared; all are in the lineage of the first, and proved gone."""
    marker = tmp_path / "attempts"

    @cluster(environment=[], retries=2)
    def f(path: str) -> int:
        with open(path, "a") as file:  # noqa: PTH123
            file.write("x")
        count = os.path.getsize(path)  # noqa: PTH202
        if count == 2:
            raise ValueError(count)
        time.sleep(600 if count == 1 else 0)
        return count

    job = f.submit(str(marker))
    first = job.id
    while not marker.exists():
        time.sleep(0.05)
    local = providers.load("local")
    for found in local.inventory(workspace.owner):
        local.terminate(found)
    assert job.result(timeout=300) == 3
    assert job.receipt(timeout=120).left == 0
    assert job.id != first
    runs = journal.histories(workspace.runs, closed=True)
    assert [run.intent["lineage"] for run in runs] == ["", first, first]
    assert (runs[0].id, runs[2].id) == (first, job.id)
    assert all(run.closed for run in runs)


_V1 = Path("/sys/fs/cgroup/memory")
_GROUPS = _V1 if _V1.is_dir() else Path("/sys/fs/cgroup")
_CONTROLLERS = _GROUPS / "cgroup.subtree_control"
_GROUPS_COUNT = _V1.is_dir() or (_CONTROLLERS.exists() and "memory" in _CONTROLLERS.read_text())


@pytest.mark.skipif(
    not _GROUPS_COUNT or not os.access(_GROUPS, os.W_OK),
    reason="only who may make a memory group can have the kernel's killer come for one process",
)
def test_a_function_that_the_kernel_ends_for_want_of_memory_says_so() -> None:
    """The real out-of-memory killer, in a memory group of the function's own."""
    group = _GROUPS / f"dayfly-test-{new_id()[:8]}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if _V1.is_dir() else "memory.max")).write_text(
            str(64 << 20)
        )

        @remote
        def eat(procs: str) -> int:
            with open(procs, "w") as file:  # noqa: PTH123
                file.write(str(os.getpid()))
            return len(b"x" * (512 << 20))

        job = eat.submit(str(group / "cgroup.procs"))
        error = job.exception(timeout=120)
        assert isinstance(error, JobKilled), error
        assert error.out_of_memory
        assert "ask for more memory" in str(error)
        job.receipt(timeout=120)
    finally:
        group.rmdir()
