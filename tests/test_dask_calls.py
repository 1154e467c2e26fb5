"""Calls that Dask gives out to the machines of a run: real Dask, on real OpenSSH servers, without a stack."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly import Data
from dayfly.errors import (
    CallTimeout,
    DataFailed,
    EnvironmentFailed,
    JobExited,
    JobKilled,
    JobStopped,
    PayloadError,
    RunFailed,
    UnpicklableResult,
)
from dayfly.infra.spec import Spec
from dayfly.runtime import agent, carried_calls, carried_dask, outcome, payload, ranks
from dayfly.runtime.agent import frames, known_call
from dayfly.runtime.carried_calls import AtWork, Begun
from dayfly.runtime.carried_making import MainThreadPoolExecutor, Maker
from dayfly.runtime.dask_calls import DaskCalls
from dayfly.runtime.dask_cluster import DaskCluster, _own_key
from dayfly.runtime.display import Display
from dayfly.runtime.fleet import Fleet
from dayfly.runtime.payload import Payload
from dayfly.runtime.records import Task
from dayfly.runtime.run_log import RunLog
from dayfly.runtime.session import Session, Sink
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_function import WarmFunction
from dayfly.runtime.warm_map import WarmMap
from tests import listening, warm
from tests.machines import machines
from tests.proxy import reset
from tests.sshd import Server, carriers


class Run:
    """A warm run on several servers, whose calls Dask gives out."""

    def __init__(
        self, servers: list[Server], folder: Path, slots: int = 1, by: str = "cores"
    ) -> None:
        self.servers, self.keys = servers, servers[0].keys
        self.directory = folder / self.keys.run_id
        for node in range(1, len(servers)):
            ranks.folder(self.directory, node).mkdir(parents=True)
        self.cluster = DaskCluster(places, Spec(nodes=len(servers)), slots, by, grace_s=2.0)
        self.fleet = Fleet(
            servers[0].machine,
            self.keys,
            [Session(server.machine, self.keys) for server in servers[1:]],
            by_rank=False,
            directory=self.directory,
            log=self.log,
            stay=lambda _: None,
        )

    @contextlib.contextmanager
    def log(self, node: int) -> Iterator[tuple[Sink, int, int]]:
        """As Attendance keeps it."""
        with RunLog(ranks.log_folder(self.directory, node), Display.silent()) as log:
            yield log.take, log.size("stdout"), log.size("stderr")

    def task(self, packed: Payload) -> Task:
        """For the interpreter of the tests, which has Dask."""
        return Task(
            sealed=frames.seal(
                self.keys.hmac_key, self.keys.run_id, frames.TASK_SEQ, bytes(packed.task)
            ),
            python=sys.executable,
            pickler=payload.pickler_zip(self.directory.parent),
            secrets=self.cluster.secrets,
            grace_s=2.0,
        )

    def begin(self) -> None:
        """Starts the machines' parts and the cluster."""
        self.cluster.meet(self.fleet)
        how = warm.settings(slots=self.cluster.slots, isolation="process", grace_s=5.0)
        others = [self.task(self.cluster.task_of(each.machine.node)) for each in self.fleet.others]
        self.fleet.start(self.task(payload.warm_task(places, how)), *others)
        ready = threading.Event()
        self.calls: DaskCalls[Any] = DaskCalls(
            WarmFunction(places), self.cluster, self.fleet, self.directory, ready
        )
        self.calls.begin()
        assert ready.wait(warm.WAIT_S)
        self.calls.start_cluster()

    def end(self) -> None:
        """When its calls have ended."""
        self.calls.finish()
        with self.log(0) as (sink, stdout, stderr):
            assert self.fleet.follow(sink, stdout, stderr).how == "finished"
        self.calls.end(JobStopped("over"))

    def has(self, **facts: Sequence[Any]) -> None:
        """Has the machines tell other facts than they would, each its own."""
        for node, each in enumerate((self.fleet, *self.fleet.others)):
            told = {name: values[node] for name, values in facts.items()}
            vars(each)["facts"] = dataclasses.replace(each.facts, **told)

    def listening(self) -> set[tuple[str, int]]:
        """Addresses and ports at which processes of the run listen: Dask's, and whatever else it has started."""
        found = (listening.of_process(pid) for pid in carriers(self.keys.run_id))
        return {place for places in found for place in places}

    def printed(self) -> str:
        """What all machines have in their logs."""
        jobs = [server.home / f"job-{self.keys.run_id}" for server in self.servers]
        return "".join(
            (job / f"std{name}.log").read_text() for job in jobs for name in ("out", "err")
        )

    def have(self, function: Callable[..., Any]) -> DaskCalls[Any]:
        """The same line for another function."""
        self.calls._called = WarmFunction(function)
        return self.calls

    def map(self, function: Callable[..., Any], items: range, **how: Any) -> list[Any]:
        """The values of a map, with the exceptions among them."""
        usual = {"total": None, "ordered": True, "return_exceptions": True}
        made: WarmMap[Any] = WarmMap(
            self.have(function), ((item,) for item in items), **{**usual, **how}
        )
        return list(made.results())


SCALE = 1


def scaled(x: int) -> tuple[int, int]:
    """By a global; and in which process."""
    time.sleep(0.05)
    return os.getpid(), SCALE * x


def places(_: int) -> str:
    """Whose home a call is made in."""
    time.sleep(0.05)
    return os.environ["HOME"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Two machines, one call at a time on each."""
    folder = tmp_path_factory.mktemp("dask")
    with machines(folder, 2) as servers:
        made = Run(servers, folder)
        with made.fleet:
            made.begin()
            yield made
            made.end()


@pytest.mark.sshd
def test_each_slot_is_a_gpu_of_the_machine_that_came(tmp_path: Path) -> None:
    """Which may be of another offer than the first of the ladder, and leave some of its GPUs out."""

    def device(_: int) -> str:
        time.sleep(0.1)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    with machines(tmp_path, 2) as servers:
        run = Run(servers, tmp_path, 0, "gpu")
        with run.fleet:
            run.has(devices=[("3", "5"), ()])
            with pytest.raises(RunFailed, match=r"nvidia-smi lists no GPU on local-\w+-1"):
                run.cluster.meet(run.fleet)
            run.has(devices=[("3", "5"), ("GPU-a",)])
            run.begin()
            assert run.calls.slots == 3
            assert set(run.map(device, range(18))) == {"3", "5", "GPU-a"}
            run.end()


@pytest.mark.sshd
def test_without_slots_each_machine_has_as_many_as_cores(tmp_path: Path) -> None:
    """Its own, and a port for each."""
    with machines(tmp_path, 2) as servers:
        run = Run(servers, tmp_path, 0)
        with run.fleet:
            run.has(cores=[3, 2])
            run.cluster.meet(run.fleet)
    assert run.cluster.slots == 5
    assert run.cluster._known["slots"] == [3, 2]
    spare = {
        len(ports) - own for ports, own in zip(run.cluster._known["ports"], (3, 2), strict=True)
    }
    assert spare == {2}


@pytest.mark.sshd
def test_all_machines_make_calls(run: Run) -> None:
    """Each in its own home; the values are in the order of the items."""
    homes = run.map(places, range(12))
    assert set(homes) == {str(server.home) for server in run.servers}
    assert run.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.sshd
def test_what_becomes_of_a_call_is_its_own(run: Run, tmp_path: Path) -> None:
    """It raises, crashes or takes too long, and was begun once; the process that it took with it is made anew."""

    def f(x: int) -> int:
        with (tmp_path / str(x)).open("a") as begun:
            begun.write("x")
        if x == 1:
            raise KeyError("mine")
        if x == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if x == 3:
            time.sleep(600)
        return x

    values = run.map(f, range(6), timeout="3s")
    assert [values[x] for x in (0, 4, 5)] == [0, 4, 5]
    assert [type(values[x]) for x in (1, 2, 3)] == [KeyError, JobKilled, CallTimeout]
    assert "raise KeyError(" in str(values[1].__notes__)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"x"}
    with pytest.raises(PayloadError, match="cannot be called so"):
        run.have(f).submit_all([((1, 2), {})])


@pytest.mark.sshd
def test_a_changed_function_is_never_made_as_it_was(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is again what it was two changes ago: a process has one version, and another one takes its place."""
    processes: list[set[int]] = []
    for scale in (1, 2, 1):
        monkeypatch.setattr(sys.modules[__name__], "SCALE", scale)
        found = run.map(scaled, range(8))
        assert [value for _, value in found] == [scale * x for x in range(8)]
        processes.append({process for process, _ in found})
    assert not processes[0] & processes[1]
    assert not processes[1] & processes[2]


@pytest.mark.sshd
def test_a_changed_module_that_travels_as_source_is_never_run_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is imported within the function, and not loaded here."""
    lines = "import time\n\ndef f(_):\n    import of_the_tests\n    time.sleep(0.05)\n    return of_the_tests.NAME\n"
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "of_the_tests.py").write_text("NAME = 'before'\n")
    (tmp_path / "imports_within.py").write_text(lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    function = importlib.import_module("imports_within").f
    try:
        assert run.map(function, range(8)) == ["before"] * 8
        (tmp_path / "of_the_tests.py").write_text("NAME = 'after'\n")
        assert run.map(function, range(8)) == ["after"] * 8
    finally:
        del sys.modules["imports_within"]


@pytest.mark.sshd
def test_a_call_that_is_stopped_leaves_its_place_to_others(run: Run, tmp_path: Path) -> None:
    """Its process is ended, since a thread cannot be."""

    def f(seconds: float) -> float:
        (tmp_path / "begun").touch()
        time.sleep(seconds)
        return seconds

    (call,) = run.have(f).submit_all([((600.0,), {})])
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    call.stop()
    with pytest.raises(JobStopped):
        call.result(warm.WAIT_S)
    assert run.map(f, range(1)) == [0]


class WithState:
    """A callable that can keep its state, and what it has started."""

    def __init__(self, folder: Path, deaf: bool) -> None:
        self.folder, self.deaf = folder, deaf

    def __call__(self, _: int) -> None:
        child = subprocess.Popen(["sleep", "600"])
        (self.folder / "begun").write_text(f"{os.getpid()} {child.pid}")
        try:
            time.sleep(600)
        finally:
            (self.folder / "finally").touch()
            if self.deaf:
                time.sleep(600)

    def checkpoint(self) -> None:
        (self.folder / "checkpoint").touch()


def is_there(process: int) -> bool:
    """Whether it lives; one that has ended and that nobody has asked after yet does not."""
    ask = ["ps", "-o", "state=", "-p", str(process)]
    state = subprocess.run(ask, check=False, capture_output=True).stdout.strip()
    return bool(state) and not state.startswith(b"Z")


@pytest.mark.sshd
@pytest.mark.parametrize("deaf", [False, True])
def test_a_call_that_takes_too_long_is_ended_as_any_call_is(
    run: Run, tmp_path: Path, deaf: bool
) -> None:
    """SIGTERM, its grace, SIGKILL, with all that it has started; what is left of it by then is its own."""
    (error,) = run.map(WithState(tmp_path, deaf), range(1), timeout="2s")
    assert isinstance(error, CallTimeout)
    wanted = {"begun", "finally"} if deaf else {"begun", "finally", "checkpoint"}
    assert {path.name for path in tmp_path.iterdir()} == wanted
    process, child = map(int, (tmp_path / "begun").read_text().split())
    end = time.monotonic() + warm.WAIT_S
    while is_there(process) or is_there(child):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.sshd
def test_what_a_call_has_started_ends_with_its_process(run: Run, tmp_path: Path) -> None:
    """Also where that crashes."""

    def f(_: int) -> None:
        child = subprocess.Popen(["sleep", "600"])
        (tmp_path / "begun").write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    (error,) = run.map(f, range(1))
    assert isinstance(error, JobKilled)
    end, child = time.monotonic() + warm.WAIT_S, int((tmp_path / "begun").read_text())
    while is_there(child):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.sshd
def test_calls_under_way_when_the_run_is_stopped_end_by_themselves(tmp_path: Path) -> None:
    """On each machine."""

    def f(x: int) -> None:
        (tmp_path / f"begun-{x}").touch()
        try:
            time.sleep(600)
        finally:
            (tmp_path / f"finally-{x}").touch()

    with machines(tmp_path, 2) as servers:
        run = Run(servers, tmp_path)
        with run.fleet:
            run.begin()
            run.have(f).submit_all([((x,), {}) for x in range(2)])
            end = time.monotonic() + warm.WAIT_S
            while len(list(tmp_path.glob("begun-*"))) < 2:
                assert time.monotonic() < end
                time.sleep(0.02)
            assert run.fleet.stop().how == "stopped"
            run.calls.end(JobStopped("over"))
    assert len(list(tmp_path.glob("finally-*"))) == 2


@pytest.mark.sshd
def test_what_a_call_has_printed_is_in_its_handle(run: Run) -> None:
    """And in the log of its machine, as that of a process that crashes is."""

    def f(x: int) -> int:
        os.write(2, f"words {x}\n".encode())
        print("hello", x)
        if not x:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    for _ in range(2):
        (call,) = run.have(f).submit_all([((7,), {})])
        assert call.result(warm.WAIT_S) == 7
        assert (call.stdout, call.stderr) == ("hello 7\n", "words 7\n")
    (error,) = run.map(f, range(1))
    assert isinstance(error, JobKilled)
    end = time.monotonic() + warm.WAIT_S
    while "hello 0\n" not in run.printed() or "words 0\n" not in run.printed():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert run.printed().count("hello 7\n") == 2


@pytest.mark.sshd
def test_what_is_large_goes_and_comes_whole(run: Run) -> None:
    """Also where it may be changed; and Dask has no word to say of it."""
    given = bytearray(os.urandom(12 << 20))

    def f(data: bytearray, text: str) -> tuple[int, bytes, str]:
        data.append(1)
        return len(data), bytes(data[:-1]), text

    (call,) = run.have(f).submit_all([((given, "words"), {})])
    size, data, text = call.result(warm.WAIT_S)
    assert (size, text) == (len(given) + 1, "words")
    assert data == given
    assert "graph" not in run.printed()


@pytest.mark.sshd
def test_data_is_a_path_on_whichever_machine_makes_the_call(run: Run, tmp_path: Path) -> None:
    """Sent to each of them once, as an argument and as what the function holds; the ledger has what was sent."""
    for name in ("argument", "held"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (10**9, 10**9))
    given, held = Data(tmp_path / "argument"), Data(tmp_path / "held")

    def f(path: Path) -> tuple[str, str, str, str]:
        time.sleep(0.05)
        return os.environ["HOME"], str(path), path.read_text(), held.read_text()

    calls = run.have(f).submit_all([((given,), {}) for _ in range(12)])
    found = {call.result(warm.WAIT_S) for call in calls}
    assert {home for home, *_ in found} == {str(server.home) for server in run.servers}
    assert all(path.startswith(home) for home, path, *_ in found)
    assert {tuple(texts) for _, _, *texts in found} == {("argument", "held")}
    assert len({path for _, path, *_ in found}) == 2
    assert [call.times.data_bytes for call in calls] == [16] + 11 * [0]
    assert calls[0].times.total_s > calls[0].times.data_s > 0


@pytest.mark.sshd
def test_data_that_cannot_be_had_fails_the_call_alone(run: Run) -> None:
    """It is fetched by the machine that makes it."""
    url = Data("https://127.0.0.1:1/none", sha256="0" * 64)
    (call,) = run.have(lambda path: path.read_text()).submit_all([((url,), {})])
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        call.result(warm.WAIT_S)


@pytest.mark.sshd
def test_a_function_may_listen_for_signals(run: Run) -> None:
    """It is called in the main thread, as everywhere."""

    def f(_: int) -> bool:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        return threading.current_thread() is threading.main_thread()

    assert run.map(f, range(2)) == [True, True]


@pytest.mark.sshd
def test_calls_that_are_ended_at_their_last_moment_cost_no_other_call(run: Run) -> None:
    """Whose process may have gone on to the next one by then."""

    def f(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    calls = run.have(f)

    def called(*sleeps: float, within_s: float | None = None) -> list[WarmCall[float]]:
        return calls.submit_all([((each,), {}) for each in sleeps], timeout_s=within_s)

    called(0.0)[0].result(warm.WAIT_S)
    began = time.monotonic()
    called(0.2)[0].result(warm.WAIT_S)
    # How long a call takes is this computer's to say; what became of the calls before tells where the last moment is.
    within_s, ends = time.monotonic() - began, Counter[type]()
    while min(ends[type(None)], ends[CallTimeout]) < 5:
        assert 0.1 < within_s < warm.WAIT_S
        late = called(0.2, 0.19, within_s=within_s)
        others = called(0.0, 0.05, 0.05, 0.05)
        became = [type(call.exception(warm.WAIT_S)) for call in late]
        assert [call.result(warm.WAIT_S) for call in others] == [0.0, 0.05, 0.05, 0.05]
        within_s *= 1.2 if CallTimeout in became else 0.95
        ends.update(became)
    assert set(ends) == {type(None), CallTimeout}


@pytest.mark.sshd
def test_nobody_without_the_key_is_answered(run: Run) -> None:
    """The scheduler's port is on a loopback that other users may share; and the function does not see the key."""
    place = carried_dask.HOST, run.cluster._known["port"]
    with socket.create_connection(place) as stranger:
        stranger.settimeout(10)
        stranger.sendall(b"x" * 200)
        with contextlib.suppress(ConnectionResetError):
            assert b"tls" not in stranger.recv(1000).lower()
            assert stranger.recv(1000) == b""
    key = carried_dask.KEY_VARIABLE
    assert run.map(lambda _: key in os.environ, range(2)) == [False, False]


@pytest.mark.sshd
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_nothing_listens_where_another_machine_reaches_it(run: Run) -> None:
    """Neither scheduler and workers, nor what they serve by HTTP."""
    known, found = run.cluster._known, run.listening()
    assert {address for address, _ in found} == {"127.0.0.1"}
    workers = {ports[0] for ports in known["ports"]}
    assert {known["port"], known["dashboard"], *workers} <= {port for _, port in found}


# In a process of its own: Dask stays changed there. Its arguments are a port and the certificate with its key.
_CONNECTS = """
import asyncio, os, sys
from dayfly.runtime import carried_dask
os.environ[carried_dask.KEY_VARIABLE] = sys.argv[3]
carried_dask._import_distributed()
from distributed.core import connect
how = carried_dask._security({"certificate": sys.argv[2]}).get_connection_args("worker")
for _ in range(20):
    try:
        asyncio.run(connect(f"tls://127.0.0.1:{sys.argv[1]}", timeout=0.1, **how))
    except OSError:
        print("OSError")
"""


def test_a_connection_that_is_closed_before_it_is_one_has_failed_as_any_other() -> None:
    """As each is that a worker makes by the client's way before the scheduler listens: it is to be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def close_all() -> int:
            closed = 0
            with contextlib.suppress(OSError):
                while True:
                    reset(listener.accept()[0])
                    closed += 1
            return closed

        closing = pool.submit(close_all)
        keys = _own_key(timedelta(hours=1))
        command = [sys.executable, "-c", _CONNECTS, str(listener.getsockname()[1]), *keys]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
        assert done.stdout.split() == ["OSError"] * 20
        assert closing.result() >= 20


class Held(WarmFunction):
    """A function that holds Data which takes long to bring."""

    def __init__(self) -> None:
        super().__init__(abs)
        self.coming = list[int]()

    def digest(self, session: Any, data: Any) -> str:
        self.coming.append(self.calls._line._coming)
        raise DataFailed("no room")

    calls: DaskCalls[Any]


def test_the_machine_is_not_idle_while_what_the_function_holds_is_brought(tmp_path: Path) -> None:
    """As while the Data of a call is; and it may be idle again behind that, also where it could not be brought."""
    session: Any = SimpleNamespace(
        keys=SimpleNamespace(run_id="0" * 32, hmac_key=b"k" * 32), others=[]
    )
    cluster: Any = SimpleNamespace(relay=None, mesh=None)
    held = Held()
    held.calls = calls = DaskCalls[Any](held, cluster, session, tmp_path)
    with pytest.raises(DataFailed):
        calls.submit_all([((-1,), {})])
    assert (held.coming, calls._line._coming) == ([1], 0)


def maker() -> Maker:
    """In a process that nobody has told to end."""
    return Maker(agent.__name__, 0, SimpleNamespace(asked=False))


def _exits(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


class Unloadable(Exception):
    """Pickles, and cannot be loaded: also where Dask, once it is imported here, has exceptions loaded without their `__init__`."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)

    def __reduce__(self) -> tuple[Any, ...]:
        return Unloadable, (1,)


def _raises(_: object) -> None:
    raise Unloadable(1, 2)


@pytest.mark.parametrize(
    ("function", "argument", "error"),
    [
        (_exits, 3, JobExited),
        (_raises, 0, UnpicklableResult),
        (lambda _: threading.Lock(), 0, UnpicklableResult),
    ],
)
def test_a_result_says_what_any_result_says(
    function: Callable[..., Any], argument: Any, error: type[Exception]
) -> None:
    """So that the client needs no other words for it."""
    found = maker().outcome((None, function), pickle.dumps(((argument,), {})))
    with pytest.raises(error):
        outcome.unpack(found, run_id="r")


def test_an_exit_without_a_code_is_a_value() -> None:
    """As of a job."""
    found = maker().outcome((None, _exits), pickle.dumps(((0,), {})))
    assert outcome.unpack(found, run_id="r") is None


def test_a_missing_module_is_named_before_the_call() -> None:
    """As of a job."""
    packed = payload.pack_function(places)
    head, _, pickled = bytes(packed.task).partition(b"\n")
    wanting = head.replace(b'"imports": []', b'"imports": ["not_there"]') + b"\n" + pickled
    making = maker()
    with pytest.raises(EnvironmentFailed, match="not_there"):
        outcome.unpack(making.outcome(making.load(wanting), b""), run_id="r")


class Ended(BaseException):
    """In the place of the end of the process."""


class Process:
    """As much of a worker as the code that ends its process looks at; and with which results that would be lost."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, grace_s: float = warm.WAIT_S, **data: bytes
    ) -> None:
        self.data = {f"call-{call}": found for call, found in data.items()}
        self.status = SimpleNamespace(name="running")
        self.at_work = AtWork("0-0-7", "tls://127.0.0.1:1", None, None, grace_s)
        self.lost: list[str] = []
        self.signals: list[int] = []
        monkeypatch.setattr(os, "killpg", self.signal)

    def signal(self, _group: int, number: int) -> None:
        """As os.killpg."""
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.lost += self.data
            raise Ended

    def stop(self, call: str) -> None:
        """As who has the call made; with what happens behind the answer."""

        async def stopped() -> None:
            await self.at_work.stop(call, self.data)
            if self.at_work._ending is not None:
                await self.at_work._ending

        asyncio.run(stopped())

    def hand_on(self) -> None:
        """As Dask, a moment later."""
        threading.Timer(0.2, self.data.clear).start()


def test_a_process_makes_room_when_nothing_is_lost_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask has handed on then what it has made."""
    process = Process(monkeypatch, a=b"value")
    process.hand_on()
    with pytest.raises(Ended):
        process.at_work.make_room(process)
    assert process.lost == []


def test_a_process_whose_worker_closes_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has made is to be brought by the next worker."""
    process = Process(monkeypatch)
    process.status.name = "closing"
    with pytest.raises(ConnectionError):
        process.at_work.make_room(process)


def test_a_stop_ends_the_process_that_makes_the_call_and_costs_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the call is over, and what was made before is handed on."""
    process = Process(monkeypatch, a=b"value")
    process.at_work.begin("b")
    threading.Timer(0.1, process.at_work._over.set).start()
    process.hand_on()
    with pytest.raises(Ended):
        process.stop("b")
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert process.lost == []


def test_a_call_that_does_not_end_by_itself_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its grace."""
    process = Process(monkeypatch, grace_s=0.0)
    process.at_work.begin("b")
    with pytest.raises(Ended):
        process.stop("b")
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]


def test_a_stop_that_comes_too_late_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process makes another call by then, or none."""
    process = Process(monkeypatch, a=b"value")
    process.at_work.begin("c")
    process.stop("b")
    process.at_work.end("c", b"value")
    process.stop("c")
    assert process.signals == []


def test_a_process_that_is_told_to_end_makes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its whole run, it ends at once."""
    process = Process(monkeypatch, a=b"value")
    with pytest.raises(Ended):
        process.at_work.interrupted()


def test_calls_are_made_in_the_thread_that_asks_for_them() -> None:
    """Until that is interrupted; what fails is told, and what nobody waits for any more is left out."""
    calls = MainThreadPoolExecutor()
    made: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    found = calls.submit(threading.get_ident)
    failed = calls.submit(int, "x")
    unwanted = calls.submit(made.append, 1)
    unwanted.cancel()
    calls.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        calls.work()
    assert found.result(0) == threading.get_ident()
    assert isinstance(failed.exception(0), ValueError)
    assert made == []


def scheduler(*calls: str, there: Iterable[str] = ()) -> Any:
    """What of Dask's scheduler is looked at: the calls that somebody waits for, and the processes that have a worker."""
    return SimpleNamespace(
        tasks={f"call-{call}": None for call in calls},
        aliases=dict.fromkeys(there, "tls://127.0.0.1:1"),
        workers={},
        stream_comms={},
    )


def test_a_call_is_begun_by_one_attempt_alone() -> None:
    """Whose question may be asked again, where its answer was lost."""
    begun = Begun(scheduler("a", there=["0-0-7", "1-0-8"]))
    asks = [("0-0-7", "x"), ("0-0-7", "x"), ("0-0-7", "y"), ("1-0-8", "z")]
    answers = [asyncio.run(begun.claim("a", *ask)) for ask in asks]
    assert answers == [True, True, False, False]
    assert asyncio.run(begun.told("a")) == {}


def test_a_call_that_was_stopped_is_begun_by_nobody() -> None:
    """Also where the scheduler has not heard yet that nobody waits for it; one that was begun is ended where it is."""
    begun = Begun(scheduler("a", "b", there=["0-0-7"]))
    assert asyncio.run(begun.claim("a", "0-0-7", "x"))
    assert asyncio.run(begun.stop("a")) == "tls://127.0.0.1:1"
    assert asyncio.run(begun.stop("b")) == ""
    assert not asyncio.run(begun.claim("b", "0-0-7", "y"))
    assert not asyncio.run(begun.claim("forgotten", "0-0-7", "z"))
    assert [asyncio.run(begun.told(call)) for call in "ab"] == [{"end": "lost"}] * 2
    assert not asyncio.run(begun.join("0-0-7", "a", {}))


def test_what_a_process_brings_is_told_to_whoever_waits_for_it() -> None:
    """What it still runs is not told yet, what it knows nothing of is lost, what nobody waits for is forgotten."""
    known = scheduler("a", "b", "c", "d")
    begun = Begun(known)
    for call in "abcd":
        assert asyncio.run(begun.claim(call, "1-0-8", call))
    del known.tasks["call-d"]
    assert asyncio.run(begun.join("1-0-8", "b", {"a": b"value", "d": b"unwanted"}))
    told = [asyncio.run(begun.told(call)) for call in "abcd"]
    assert told == [{"result": b"value"}, {}, {"end": "lost"}, {"end": "lost"}]
    assert not asyncio.run(begun.join("1-0-8", "d", {}))


def test_a_call_whose_process_was_replaced_has_died_with_it() -> None:
    """That of another slot goes on."""
    begun = Begun(scheduler("a", "b"))
    for call, process in (("a", "1-0-8"), ("b", "1-1-9")):
        assert asyncio.run(begun.claim(call, process, "x"))
    assert not asyncio.run(begun.join("1-0-10", "", {}))
    assert asyncio.run(begun.told("a")) == {"end": "died"}
    assert asyncio.run(begun.told("b")) == {}


def test_a_process_that_stays_away_has_lost_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as long as a machine may be out of reach, from when it was missed."""
    known = scheduler("a", there=["1-0-8"])
    begun = Begun(known)
    assert asyncio.run(begun.claim("a", "1-0-8", "x"))
    known.aliases.clear()
    assert asyncio.run(begun.told("a")) == {}
    monkeypatch.setattr(carried_calls, "_REJOIN_S", -1.0)
    assert asyncio.run(begun.told("a")) == {"end": "lost"}
    assert asyncio.run(begun.join("1-0-8", "a", {}))
    known.aliases["1-0-8"] = "tls://127.0.0.1:1"
    assert asyncio.run(begun.told("a")) == {}


def test_a_call_that_is_lost_says_so() -> None:
    """With what makes it again."""
    with pytest.raises(RunFailed, match="retries="):
        outcome.unpack(carried_dask._header("lost"), run_id="r")


def test_the_key_is_in_nothing_that_is_sent_as_content() -> None:
    """Content by digest stays in the machine's cache after the run."""
    cluster = DaskCluster(places, Spec(nodes=2), 1, "cores", grace_s=2.0)
    cluster._known |= {"slots": [1, 1], "ports": [[2], [3]], "scheduler": "tls://127.0.0.1:1"}
    (key,) = cluster.secrets.values()
    line = key.splitlines()[1].encode()
    assert line not in bytes(cluster.task_of(1).task)
    assert line not in bytes(cluster.relay.task)


def test_what_nobody_has_fetched_is_told_as_what_it_is() -> None:
    """The run's own result holds the results of its calls, and those hold what a worker has made of them."""
    making, calling = maker(), pickle.dumps(((2,), {}))
    inner = making.outcome((None, lambda x: x << 3), calling)
    outer = making.outcome((None, lambda _: inner), calling)
    raised = making.outcome((None, lambda _: 1 // 0), calling)
    failed = making.outcome((None, lambda _: raised), calling)
    whole = b'{"outcome": "calls"}\n'
    for number, part in ((3, outer), (4, failed)):
        whole += known_call.CALL_PREFIX.pack(number, len(part)) + part
    found = outcome.unpack(whole, run_id="r", nested=True)
    assert found[3] == 16
    assert isinstance(found[4], ZeroDivisionError)
