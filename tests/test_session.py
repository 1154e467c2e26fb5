"""A session against a real OpenSSH server on loopback."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from dayfly.errors import (
    ConnectFailed,
    EnvironmentFailed,
    Forged,
    HostKeyMismatch,
    InstanceLost,
    ResultFailed,
)
from dayfly.runtime.agent import frames, processes
from dayfly.runtime.agent.digests import digest_of
from dayfly.runtime.records import JobEnd, Task
from dayfly.runtime.session import Session
from dayfly.runtime.ssh import bootstrap, link
from dayfly.runtime.ssh.connection import Connection, Disconnected
from tests.proxy import proxy
from tests.sshd import Server, carriers, end_carriers, sshd, write_key

pytestmark = pytest.mark.sshd

OTHER = "c" * 32
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with sshd(tmp_path / "machine", is_new=False) as running:
        yield running


@pytest.fixture(scope="module")
def pickler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pickler") / "cloudpickle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in Path(cloudpickle.__file__).parent.glob("*.py"):
            archive.write(file, f"cloudpickle/{file.name}")
    return path


@dataclass
class Outcome:
    """What came of a job: how it ended, both logs, and the result's header and pickle."""

    end: JobEnd
    stdout: bytes
    stderr: bytes
    header: dict[str, Any]
    pickled: bytes

    @property
    def value(self) -> Any:
        return pickle.loads(self.pickled)


@dataclass
class Runs:
    """Starts functions on the server's machine."""

    server: Server
    pickler: Path
    folder: Path

    def task(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        imports: tuple[str, ...] = (),
        **more: Any,
    ) -> Task:
        header = {
            "python": MINOR,
            "function": "test:function",
            "imports": list(imports),
            "sources": {},
        }
        pickled = cloudpickle.dumps((function, arguments, {}), protocol=5)
        payload = json.dumps(header).encode() + b"\n" + pickled
        keys = self.server.keys
        sealed = frames.seal(keys.hmac_key, keys.run_id, frames.TASK_SEQ, payload)
        # The interpreter of the tests themselves, so that its minor is the client's.
        python = os.path.realpath(sys.executable)
        return Task(sealed=sealed, python=python, pickler=self.pickler, **{"grace_s": 5, **more})

    def session(self, **more: Any) -> Session:
        return Session(self.server.machine, self.server.keys, **more)

    def run(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Outcome:
        with self.session() as session:
            session.start(self.task(function, *arguments, **more))
            return self.outcome(session)

    def outcome(self, session: Session) -> Outcome:
        logs = Logs()
        end = session.follow(logs)
        header, pickled = self.result(session) if session.status().has_result else ({}, b"")
        return Outcome(end, bytes(logs.stdout), bytes(logs.stderr), header, pickled)

    def result(self, session: Session) -> tuple[dict[str, Any], bytes]:
        keys, path = self.server.keys, self.folder / "result.sealed"
        session.fetch_result(path)
        payload = frames.unseal(keys.hmac_key, keys.run_id, frames.RESULT_SEQ, path.read_bytes())
        head, _, pickled = payload.partition(b"\n")
        return json.loads(head), pickled

    @property
    def job(self) -> Path:
        return self.server.home / f"job-{self.server.keys.run_id}"


class Logs:
    """A sink that holds each stream, and refuses a gap or a repeat."""

    def __init__(self) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()

    def __call__(self, stream: str, offset: int, data: bytes) -> None:
        held: bytearray = getattr(self, stream)
        assert offset == len(held)
        held += data


@pytest.fixture
def runs(server: Server, pickler: Path, tmp_path: Path) -> Runs:
    return Runs(server, pickler, tmp_path)


def await_text(path: Path, text: str) -> None:
    while not path.exists() or text not in path.read_text():
        time.sleep(0.01)


# -- the way of a job that goes well


def test_a_function_runs_and_its_logs_and_value_come_back(runs: Runs) -> None:
    """Both streams arrive apart with their carriage returns, and the value with where it was made."""

    def function(number: int) -> int:
        print("one\rtwo")
        print("three", file=sys.stderr)
        return number + 1

    outcome = runs.run(function, 41)
    assert (outcome.end.how, outcome.end.code, outcome.value) == ("finished", 0, 42)
    assert (outcome.stdout, outcome.stderr) == (b"one\rtwo\n", b"three\n")
    assert outcome.header["outcome"] == "value"
    assert outcome.header["provenance"]["pid"] > 0
    assert outcome.end.started <= outcome.end.ended
    assert outcome.end.peak_rss_bytes > 1 << 20


def test_the_job_gets_its_variables_its_folder_and_nothing_on_stdin(runs: Runs) -> None:
    """Secrets and variables are in its environment, its folder is its own, and argv is empty."""

    def function() -> dict[str, Any]:
        return {
            "cwd": str(Path.cwd()),
            "argv": sys.argv,
            "stdin": sys.stdin.read(),
            "environment": dict(os.environ),
            "main": sorted(vars(sys.modules["__main__"])),
        }

    seen = runs.run(function, secrets={"TOKEN": "s3cret"}, variables={"MODE": "fast"}).value
    assert (seen["cwd"], seen["argv"], seen["stdin"]) == (str(runs.job / "work"), [""], "")
    environment = seen["environment"]
    assert (environment["TOKEN"], environment["MODE"]) == ("s3cret", "fast")
    assert environment["DAYFLY_RUN"] == runs.server.keys.run_id
    assert environment["HOME"] == str(runs.server.home)
    assert Path(environment["DAYFLY_OUTPUT_DIR"]).is_dir()
    assert not [name for name in environment if name.startswith("SSH_")]
    assert not [name for name in seen["main"] if "agent" in name]


def test_the_machine_tells_what_it_is(runs: Runs) -> None:
    """The facts hold the interpreter that the agent runs under and the size of the machine."""
    with runs.session() as session:
        facts = session.facts
    assert facts.hostname == os.uname().nodename
    assert facts.platform == f"{os.uname().sysname.lower()}-{os.uname().machine}"
    assert facts.pythons
    assert facts.cores >= 1
    assert facts.memory_bytes > 0
    assert facts.free_disk_bytes > 0


def test_a_job_starts_once_however_often_it_is_started(runs: Runs) -> None:
    """A second start of the run, in the same session and in another, changes nothing."""

    def function(path: str) -> None:
        with Path(path).open("a") as file:
            file.write("started\n")

    marker = runs.folder / "marker"
    task = runs.task(function, str(marker))
    with runs.session() as first:
        assert first.status().state == "absent"
        first.start(task)
        first.start(task)
        with runs.session() as second:
            second.start(task)
            assert second.follow(Logs()).how == "finished"
        first.start(task)
        status = first.status()
    assert marker.read_text() == "started\n"
    assert (status.state, status.has_result, status.acknowledged) == ("ended", True, False)


def test_a_large_task_and_a_large_result_travel_whole(runs: Runs) -> None:
    """Sizes above a frame go as content by digest and come back in pieces."""
    blob = os.urandom(3 << 20)
    outcome = runs.run(lambda data: data * 4, blob)
    assert outcome.value == blob * 4


def test_a_flood_of_output_arrives_byte_for_byte(runs: Runs) -> None:
    """More than the credit of a stream, both streams at once."""

    def function() -> None:
        for number in range(100_000):
            print(number, "x" * 100)
            if number % 10 == 0:
                print(number, file=sys.stderr)

    outcome = runs.run(function)
    assert outcome.stdout == "".join(f"{n} {'x' * 100}\n" for n in range(100_000)).encode()
    assert outcome.stderr == "".join(f"{n}\n" for n in range(0, 100_000, 10)).encode()


def test_a_result_is_held_after_it_is_acknowledged_or_not(runs: Runs) -> None:
    """Acknowledging is recorded on the machine, and any session sees it."""
    runs.run(lambda: None)
    with runs.session() as session:
        assert not session.status().acknowledged
        session.acknowledge()
        assert session.status().acknowledged


def test_content_is_put_once_and_resumed_where_it_broke_off(runs: Runs) -> None:
    """What is there already is completed; a wrong beginning is thrown away instead of believed."""
    content = os.urandom(3 << 20)
    with runs.session() as session:
        digest = session.put(content)
        blob = runs.server.home.parent / "cache" / "blobs" / digest
        assert blob.read_bytes() == content
        before = blob.stat()
        assert session.put(content) == digest
        assert blob.stat().st_mtime_ns == before.st_mtime_ns
        part = blob.with_name(f"{digest}.{runs.server.keys.run_id}.part")
        for beginning in (content[: 2 << 20], b"x" * (2 << 20), content, b""):
            blob.unlink()
            part.write_bytes(beginning)
            note = struct.pack(">3Q", 1, 0, len(beginning))
            part.with_name(part.name + ".have").write_bytes(note)
            session.put(content)
            assert blob.read_bytes() == content
            assert [entry.name for entry in blob.parent.iterdir()] == [digest]
        assert session.put(b"") == digest_of(b"")


# -- every way a job can end


def test_an_exception_comes_back_with_its_cause(runs: Runs) -> None:
    """The pickle holds the exception itself, the traceback names its cause and not the agent."""

    def function() -> None:
        try:
            dict[str, int]()["missing"]
        except KeyError as error:
            raise ValueError("bad") from error

    outcome = runs.run(function)
    assert outcome.end.how == "finished"
    assert outcome.header["outcome"] == "raised"
    assert outcome.header["type"] == "builtins.ValueError"
    assert isinstance(outcome.value, ValueError)
    assert "KeyError: 'missing'" in outcome.header["traceback"]
    assert "direct cause" in outcome.header["traceback"]
    assert "_outcome" not in outcome.header["traceback"]


def test_sys_exit_is_an_outcome(runs: Runs) -> None:
    """A code comes back as such, and so does a message, which is code 1."""
    outcome = runs.run(lambda: sys.exit(3))
    assert (outcome.end.how, outcome.header["outcome"], outcome.header["code"]) == (
        "finished",
        "exited",
        3,
    )


def test_sys_exit_without_a_code_is_the_value_none(runs: Runs) -> None:
    """The interpreter calls it a success, so it is one."""
    outcome = runs.run(sys.exit)
    assert (outcome.header["outcome"], outcome.value) == ("value", None)


def test_sys_exit_with_a_message_prints_it(runs: Runs) -> None:
    """As the interpreter does."""
    outcome = runs.run(lambda: sys.exit("no data"))
    assert (outcome.header["code"], outcome.header["text"]) == (1, "no data")
    assert b"no data" in outcome.stderr


def test_a_segfault_is_named_and_leaves_a_trace(runs: Runs) -> None:
    """The signal is in the end, and where it happened on stderr."""

    def function() -> None:
        import ctypes

        ctypes.string_at(0)

    outcome = runs.run(function)
    assert (outcome.end.how, outcome.end.signal) == ("killed", signal.SIGSEGV)
    assert not outcome.end.out_of_memory
    assert b"Segmentation fault" in outcome.stderr
    assert outcome.header == {}


def test_os_exit_leaves_its_code(runs: Runs) -> None:
    """There is no result to fetch, and the session says so."""
    with runs.session() as session:
        session.start(runs.task(lambda: os._exit(3)))
        end = session.follow(Logs())
        assert (end.how, end.code) == ("exited", 3)
        with pytest.raises(ResultFailed, match="left no result"):
            session.fetch_result(runs.folder / "result.sealed")


def test_a_kill_from_outside_is_named(runs: Runs) -> None:
    """SIGKILL that was not ours and came without the kernel's out-of-memory killer."""
    outcome = runs.run(lambda: os.kill(os.getpid(), 9))
    assert (outcome.end.how, outcome.end.signal, outcome.end.out_of_memory) == ("killed", 9, False)


def test_a_leftover_thread_is_named_and_does_not_hold_the_run(runs: Runs) -> None:
    """The value comes back, the thread's name is on stderr, the process has ended."""

    def function() -> str:
        import threading

        threading.Thread(target=lambda: time.sleep(3600), name="collector").start()
        return "done"

    outcome = runs.run(function)
    assert outcome.value == "done"
    assert outcome.header["threads"] == ["collector"]
    assert b"collector" in outcome.stderr


def test_a_value_that_cannot_be_pickled_is_described(runs: Runs) -> None:
    """Its type and its repr come back instead."""

    def function() -> object:
        import threading

        return threading.Lock()

    outcome = runs.run(function)
    assert outcome.header["outcome"] == "unpicklable_value"
    assert "lock" in outcome.header["text"]
    assert "cannot pickle" in outcome.header["traceback"]
    assert outcome.pickled == b""


def test_an_exception_that_does_not_survive_pickling_is_described(runs: Runs) -> None:
    """It pickles but would fail when it is loaded, which must not happen on the client."""

    def function() -> None:
        class NeedsTwo(Exception):
            def __init__(self, one: int, two: int) -> None:
                super().__init__("needs two")

        raise NeedsTwo(1, 2)

    outcome = runs.run(function)
    assert outcome.header["outcome"] == "unpicklable_exception"
    assert outcome.header["type"].endswith("NeedsTwo")
    assert "needs two" in outcome.header["traceback"]


def test_a_missing_import_is_found_before_the_function_starts(runs: Runs) -> None:
    """Nothing was called; the modules are named."""
    outcome = runs.run(lambda: print("called"), imports=("json", "no_such_module"))
    assert outcome.header["outcome"] == "missing_import"
    assert outcome.header["modules"] == ["no_such_module"]
    assert outcome.stdout == b""


def test_a_task_that_was_altered_is_never_unpickled(runs: Runs) -> None:
    """The job's process refuses it, and the function's side effect is not there."""
    marker = runs.folder / "marker"
    task = runs.task(lambda path: Path(path).touch(), str(marker))
    forged = bytearray(bytes(task.sealed))
    forged[-1] ^= 1
    with runs.session() as session:
        session.start(replace(task, sealed=bytes(forged)))
        logs = Logs()
        end = session.follow(logs)
    assert (end.how, end.code) == ("exited", 1)
    assert b"SHA-256" in logs.stderr
    assert not marker.exists()


# -- ending it


def test_stop_lets_the_function_clean_up_and_says_so(runs: Runs) -> None:
    """SIGTERM arrives as KeyboardInterrupt, so `finally` runs."""

    def function() -> None:
        try:
            print("ready")
            time.sleep(3600)
        finally:
            print("cleaned")

    with runs.session() as session:
        session.start(runs.task(function))
        await_text(runs.job / "stdout.log", "ready")
        assert session.stop().how == "stopped"
        outcome = runs.outcome(session)
        assert session.stop().how == "stopped"
    assert outcome.stdout == b"ready\ncleaned\n"
    assert outcome.header == {}


def test_twenty_threads_stop_a_job_at_once(runs: Runs) -> None:
    """Over one connection and over another; each is told the one end, and none is in another's way."""
    with runs.session() as first, runs.session() as second:
        first.start(runs.task(lambda: time.sleep(3600)))
        with ThreadPoolExecutor(20) as pool:
            ends = list(pool.map(lambda n: (first, second)[n % 2].stop(), range(20)))
    assert {end.how for end in ends} == {"stopped"}
    assert len(set(ends)) == 1


def _deletes_its_folder(then_s: float) -> Callable[[], None]:
    def function() -> None:
        print("ready", flush=True)
        folder = Path(os.environ["DAYFLY_OUTPUT_DIR"]).parent
        assert folder.name.startswith("job-")
        shutil.rmtree(folder)
        print("gone", flush=True)
        time.sleep(then_s)

    return function


def test_a_job_that_deletes_its_own_folder_comes_to_an_end(runs: Runs) -> None:
    """Whoever follows it gets what it printed, and is told; nobody waits for a record that can never be written."""
    logs = Logs()
    with runs.session() as session:
        session.start(runs.task(_deletes_its_folder(1.0)))
        end = session.follow(logs)
    assert end.how == "vanished"
    assert logs.stdout == b"ready\ngone\n"


def test_a_job_that_has_deleted_its_own_folder_can_be_stopped(runs: Runs) -> None:
    """By the mark that its processes carry."""
    with runs.session() as session:
        session.start(runs.task(_deletes_its_folder(3600.0)))
        while runs.job.exists():
            time.sleep(0.01)
        assert session.stop().how == "vanished"
    assert not processes.carriers(f"DAYFLY_OUTPUT_DIR={runs.job / 'outputs'}")


def test_stop_ends_a_double_forked_grandchild(runs: Runs) -> None:
    """Even one that left the session, emptied its environment and ignores SIGTERM."""

    def function() -> None:
        code = "import signal,time;signal.signal(15,signal.SIG_IGN);print('ready',flush=True);time.sleep(3600)"
        if not os.fork():
            os.setsid()
            if not os.fork():
                os.execve(sys.executable, [sys.executable, "-c", code], {})
            os._exit(0)
        time.sleep(3600)

    with runs.session() as session:
        session.start(runs.task(function, grace_s=0.2))
        await_text(runs.job / "stdout.log", "ready")
        assert session.stop().how == "stopped"
    assert not processes_in(runs.job)


def processes_in(folder: Path) -> set[int]:
    """Processes whose working directory is below `folder` (Linux) or that carry its mark."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink().is_relative_to(folder):
                found.add(int(entry.parent.name))
        except OSError:
            continue
    return found | processes.carriers(f"DAYFLY_OUTPUT_DIR={folder / 'outputs'}") & set(
        processes.process_table()
    )


def test_max_runtime_ends_the_job_without_any_client(runs: Runs) -> None:
    """The machine enforces it; the next client reads how it ended."""
    with runs.session() as session:
        session.start(runs.task(lambda: time.sleep(3600), max_runtime_s=0.3))
    with runs.session() as session:
        assert runs.outcome(session).end.how == "deadline"


def test_the_deadline_ends_every_process_of_the_run(runs: Runs) -> None:
    """Armed, moved to an earlier time, it ends the job, the agent and itself, and says why the job ended."""
    with runs.session(give_up_s=1) as session:
        session.start(runs.task(lambda: time.sleep(3600)))
        session.arm_deadline(3600)
        session.arm_deadline(0.2)
        assert session.follow(Logs()).how == "deadline"
    while carriers(runs.server.keys.run_id):
        time.sleep(0.02)


def test_a_deadline_can_be_moved_to_later(runs: Runs) -> None:
    """Only one process watches it, and it reads where it has been moved to."""
    with runs.session() as session:
        session.arm_deadline(1)
        session.arm_deadline(3600)
        session.arm_deadline(7200)
        session.start(runs.task(lambda: time.sleep(1.5)))
        assert session.follow(Logs()).how == "finished"
    watching = [
        pid for pid in carriers(runs.server.keys.run_id) if b"\0deadline\0" in command_line(pid)
    ]
    assert len(watching) == 1


def test_a_machine_that_goes_on_has_nothing_left_of_a_job(runs: Runs) -> None:
    """What it has left running is asked to end, then ended; its folders and its deadline go where that is wished."""
    run = runs.server.keys.run_id

    def function() -> list[int]:
        stubborn = (
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(600)"
        )
        started = [["sleep", "600"], [sys.executable, "-u", "-c", stubborn]]
        own = [
            subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE)
            for words in started
        ]
        assert own[1].stdout is not None
        own[1].stdout.readline()
        return [process.pid for process in own]

    left = runs.run(function).value
    assert set(left) <= carriers(run)
    (data := runs.server.home / f"data-{run}" / "key").mkdir(parents=True)
    (data / "set").touch(0o400)
    with runs.session() as session:
        session.arm_deadline(600)
        session.clear(run, folder=False, deadline=False)
        assert not set(left) & carriers(run)
        assert (runs.job / "result.sealed").exists()
        assert (data / "set").exists()
        deadline = runs.server.home / f"deadline-{run}.json"
        assert deadline.exists()
        session.clear(run, folder=True, deadline=True)
        assert not runs.job.exists()
        assert not data.parent.exists()
        assert not deadline.exists()
        session.clear(run, folder=True, deadline=True)


def test_what_a_job_leaves_running_ends_with_it_where_that_is_wished(runs: Runs) -> None:
    """Before its end is told, and also what has an environment and a session of its own, which nothing marks as the run's."""

    def function() -> list[int]:
        stubborn = (
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(600)"
        )
        started = [["sleep", "600"], [sys.executable, "-u", "-c", stubborn]]
        bare = {"PATH": os.defpath}
        own = [
            subprocess.Popen(words, env=bare, start_new_session=True, stdout=subprocess.PIPE)
            for words in started
        ]
        assert own[1].stdout is not None
        own[1].stdout.readline()
        return [process.pid for process in own]

    outcome = runs.run(function, ends_rest=True)
    assert outcome.end.how == "finished"
    assert not set(outcome.value) & set(processes.process_table())


def test_a_run_moves_the_deadline_of_the_one_whose_machine_it_is_on(runs: Runs) -> None:
    """That one's processes end by it, and the machine with them."""
    with runs.session() as session:
        session.arm_deadline(600, run=OTHER)
    armed = json.loads((runs.server.home / f"deadline-{OTHER}.json").read_text())
    assert armed["at"] > 0
    assert not (runs.server.home / f"deadline-{runs.server.keys.run_id}.json").exists()
    end_carriers(OTHER)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_dead_supervisor_does_not_hide_that_the_job_is_over(runs: Runs) -> None:
    """It is told as killed; while the job's process lives it is told as running."""
    with runs.session() as session:
        session.start(runs.task(lambda: time.sleep(3600)))
        while not (runs.job / "process.json").exists():
            time.sleep(0.01)
        os.kill(json.loads((runs.job / "started.json").read_text())["pid"], signal.SIGKILL)
        assert session.status().state == "running"
        os.kill(json.loads((runs.job / "process.json").read_text())["pid"], signal.SIGKILL)
        end = session.follow(Logs())
    assert (end.how, end.signal) == ("killed", 9)


# -- a client that dies, a connection that breaks


CLIENT = """
import pickle, sys
from dayfly.runtime.session import Session
machine, keys, task = pickle.load(open(sys.argv[1], "rb"))
with Session(machine, keys) as session:
    session.start(task)
    session.follow(lambda stream, offset, data: print("heard", flush=True))
"""


def test_a_killed_client_loses_nothing(runs: Runs) -> None:
    """The job goes on, and another process gets the whole log, byte for byte, and the result."""

    def function() -> str:
        for number in range(200):
            print(number, end="\r\n")
            time.sleep(0.005)
        return "result"

    order = runs.folder / "order.pickle"
    order.write_bytes(pickle.dumps((runs.server.machine, runs.server.keys, runs.task(function))))
    command = [sys.executable, "-c", CLIENT, str(order)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        client.kill()
    with runs.session() as session:
        assert session.status().state == "running"
        outcome = runs.outcome(session)
    assert outcome.stdout == b"".join(b"%d\r\n" % number for number in range(200))
    assert outcome.value == "result"


def test_a_cut_connection_leaves_no_gap_and_no_repeat(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut again and again in the middle of the log and of the result, all of both arrives once."""

    def function() -> bytes:
        for number in range(20_000):
            print(number, "y" * 90)
        return bytes(range(256)) * 20_000

    with proxy(runs.server.machine.port) as between:
        machine = runs.server.through(between.port)
        with Session(machine, runs.server.keys) as session:
            session.start(runs.task(function))
            between.cut_after = 700_000
            between.cut()
            outcome = runs.outcome(session)
    assert between.cuts >= 3
    assert outcome.stdout == "".join(f"{n} {'y' * 90}\n" for n in range(20_000)).encode()
    assert outcome.value == bytes(range(256)) * 20_000


def test_a_silent_connection_is_given_up_and_replaced(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is reset, nothing arrives: after some pings without answer a new connection takes over."""
    monkeypatch.setattr(link, "PING_EVERY_S", 0.2)

    def function(path: str) -> str:
        print("before")
        while not Path(path).exists():
            time.sleep(0.01)
        print("after")
        return "done"

    flag = runs.folder / "flag"
    with (
        proxy(runs.server.machine.port) as between,
        Session(runs.server.through(between.port), runs.server.keys) as session,
    ):
        session.start(runs.task(function, str(flag)))
        logs = Logs()

        def sink(stream: str, offset: int, data: bytes) -> None:
            logs(stream, offset, data)
            if not flag.exists():
                between.deafen()
                flag.touch()

        end = session.follow(sink)
    assert end.how == "finished"
    assert bytes(logs.stdout) == b"before\nafter\n"
    assert between.connections >= 2


def test_a_slow_link_carries_large_content_on_one_connection(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that takes longer than the machine may be silent breaks nothing: what it takes in, it says."""
    monkeypatch.setattr(link, "PING_EVERY_S", 1.0)
    content = os.urandom(300_000)
    with proxy(runs.server.machine.port) as between:
        between.bytes_per_s = 60_000
        with Session(runs.server.through(between.port), runs.server.keys) as session:
            digest = session.put(content)
        assert between.connections == 1
    assert (runs.server.home.parent / "cache" / "blobs" / digest).read_bytes() == content


def test_a_frame_that_was_sent_in_part_is_followed_by_nothing(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine would take what follows for the rest of it, so the next try is on a new link."""
    content = os.urandom(3 << 20)
    sending, failures = Connection.send, iter([300_000, 100])

    def send(self: Connection, data: bytes) -> None:
        if len(data) > 500_000 and (part := next(failures, 0)):
            sending(self, data[:part])
            raise Disconnected("the connection stalled")
        sending(self, data)

    with proxy(runs.server.machine.port) as between:
        with Session(runs.server.through(between.port), runs.server.keys) as session:
            monkeypatch.setattr(Connection, "send", send)
            digest = session.put(content)
            assert (runs.server.home.parent / "cache" / "blobs" / digest).read_bytes() == content
        assert between.connections == 3


def test_every_chunk_that_arrived_renews_the_patience(runs: Runs) -> None:
    """A transfer that is cut once a chunk goes on for longer than the machine may be out of reach."""
    heard: list[float] = []

    class Patient(Session):
        def _progress(self) -> None:
            super()._progress()
            heard.append(self._heard)

    with Patient(runs.server.machine, runs.server.keys) as session:
        for size in (3 << 20, 6 << 20):
            before = len(heard)
            session.put(os.urandom(size))
            assert len(heard) >= before + (size >> 20)


def test_a_machine_that_is_gone_is_called_lost(runs: Runs) -> None:
    """After `give_up_s` of trying, in words that say where and what was tried."""
    with (
        proxy(runs.server.machine.port) as between,
        Session(runs.server.through(between.port), runs.server.keys, give_up_s=0.5) as session,
    ):
        session.start(runs.task(lambda: time.sleep(3600)))
        between.target = 1
        between.cut()
        with pytest.raises(InstanceLost, match="could not be reached for"):
            session.follow(Logs())


def test_a_job_that_was_never_started_cannot_be_followed(runs: Runs) -> None:
    """It is said at once, instead of waiting for what will not come."""
    with runs.session() as session, pytest.raises(InstanceLost, match="no job of this run"):
        session.follow(Logs())


# -- who may speak


def test_another_host_key_stops_before_any_login(tmp_path: Path) -> None:
    """The refusal comes before authentication: the server that was reached never sees a user."""
    other = write_key(tmp_path / "other")
    with sshd(tmp_path / "machine") as server:
        wrong = replace(server.machine, host_key=other)
        with (
            pytest.raises(HostKeyMismatch, match="not the one pinned"),
            Session(wrong, server.keys),
        ):
            pytest.fail("the session was opened")
        # The agent is brought at the first login: none was made.
        assert not (server.home.parent / "cache").exists()
        assert "Accepted" not in server.log.read_text()
        assert "Failed" not in server.log.read_text()


def test_another_host_behind_the_same_address_ends_the_session(runs: Runs, tmp_path: Path) -> None:
    """At a reconnection too nothing is sent to a host that shows another key."""
    with sshd(tmp_path / "impostor") as impostor, proxy(runs.server.machine.port) as between:
        with Session(runs.server.through(between.port), runs.server.keys) as session:
            session.start(runs.task(lambda: time.sleep(3600)))
            between.target = impostor.machine.port
            between.cut()
            with pytest.raises(HostKeyMismatch):
                session.follow(Logs())
        assert "Accepted" not in impostor.log.read_text()


def test_a_refused_key_is_a_failed_connection(runs: Runs, tmp_path: Path) -> None:
    """Tried three times, since a machine may answer before it has learned its keys, then named."""
    write_key(tmp_path / "stranger")
    keys = replace(runs.server.keys, user_key=tmp_path / "stranger")
    with (
        proxy(runs.server.machine.port) as between,
        pytest.raises(ConnectFailed, match=r"refused the run's key: .*, 3 times"),
    ):
        Session(runs.server.through(between.port), keys, connect_timeout_s=2).__enter__()
    assert between.connections == 3


def test_nobody_listening_is_a_failed_connection(runs: Runs) -> None:
    """The message has the address and the bound."""
    machine = replace(runs.server.machine, port=1)
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1 could not be reached for 0.3 s"):
        Session(machine, runs.server.keys, connect_timeout_s=0.3).__enter__()


def test_a_machine_without_python_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent needs one thing there, and the message names it."""
    broken = bootstrap.command("0" * 32, "~").replace("/usr/bin/python3", "/nowhere/python3")
    monkeypatch.setattr(bootstrap, "command", lambda run_id, cache_dir: broken)
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("sh", "env"):
        (bare / tool).symlink_to(f"/usr/bin/{tool}")
    with (
        sshd(tmp_path / "machine", path=str(bare)) as server,
        pytest.raises(ConnectFailed, match=r"no Python 3\.8 or newer"),
    ):
        Session(server.machine, server.keys).__enter__()


def test_a_forged_result_never_takes_its_place(runs: Runs) -> None:
    """One byte was changed on the machine: Forged, and nothing is left under the result's name."""
    runs.run(lambda: "value")
    (runs.folder / "result.sealed").unlink()
    forged = bytearray((runs.job / "result.sealed").read_bytes())
    forged[-2] ^= 1
    (runs.job / "result.sealed").write_bytes(forged)
    with runs.session() as session, pytest.raises(Forged, match="SHA-256"):
        session.fetch_result(runs.folder / "result.sealed")
    assert not [path for path in runs.folder.iterdir() if path.name.startswith("result")]


def test_secrets_are_nowhere_but_in_the_job(runs: Runs) -> None:
    """Neither the key of the run nor a secret is in any file below the machine's folders or in any argv."""
    secret = os.urandom(12).hex()

    def function(path: str) -> int:
        print("ready")
        while not Path(path).exists():
            time.sleep(0.01)
        return len(os.environ["TOKEN"])

    key = runs.server.keys.hmac_key
    with runs.session() as session:
        session.start(runs.task(function, str(runs.folder / "flag"), secrets={"TOKEN": secret}))
        await_text(runs.job / "stdout.log", "ready")
        needles = [secret.encode(), key, key.hex().encode()]
        places = [path for path in runs.server.home.parent.rglob("*") if path.is_file()]
        places += Path("/proc").glob("[0-9]*/cmdline")
        places += [Path(f"/proc/{pid}/environ") for pid in carriers(runs.server.keys.run_id)]
        (runs.folder / "flag").touch()
        assert runs.outcome(session).value == len(secret)
    assert len(places) > 20
    for place in places:
        content = read_if_there(place)
        assert not [needle for needle in needles if needle in content], place
    assert "s3cret" not in repr(runs.task(function, secrets={"TOKEN": "s3cret"}))
    assert repr(key) not in repr(runs.server.keys)


def read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_everything_of_the_job_is_private(pickler: Path, tmp_path: Path) -> None:
    """Folders 0700, files 0600: other users of the machine read nothing, of the agent neither."""
    with sshd(tmp_path / "machine") as server:
        runs = Runs(server, pickler, tmp_path)
        runs.run(lambda: None)
        cache = server.home.parent / "cache"
        for path in [runs.job, *runs.job.rglob("*"), *cache.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_closing_twice_and_using_it_afterwards(runs: Runs) -> None:
    """Closing is harmless, and a closed session says that it is closed."""
    with runs.session() as session:
        session.close()
        session.close()
        with pytest.raises(InstanceLost, match="closed"):
            session.status()


# -- the environment


def recipe(**fields: Any) -> Any:
    """The attributes of a Recipe."""
    given: dict[str, Any] = {
        "python": MINOR,
        "requirements": "",
        "wheels": (),
        "variables": {},
        "checks": (),
        "torch_builds": {},
        "jax_extra": "",
        "constraints": "",
        "empty": False,
        "digest": os.urandom(8).hex(),
    }
    return SimpleNamespace(**{**given, **fields})


def wheel(folder: Path, name: str, version: str = "1.0", more: str = "") -> Path:
    """The smallest wheel: one module that says its own name; `more` are lines of its description."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"NAME = {name!r}\n")
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_an_empty_recipe_takes_the_machines_own_python(runs: Runs) -> None:
    """No uv, no environment: the path of an interpreter of that minor."""
    with runs.session() as session:
        minor = session.facts.pythons[0]
        python = session.build_environment(recipe(python=minor, empty=True), pytest.fail)
    version = subprocess.run(
        [python, "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert version.startswith(f"Python {minor}.")
    assert not (runs.server.home.parent / "cache" / "environments").exists()


@pytest.fixture
def python_on_path(tmp_path: Path, pickler: Path) -> Iterator[Runs]:
    """A machine on whose PATH there is an interpreter of the client's minor."""
    folder = Path(os.path.realpath(sys.executable)).parent
    with sshd(tmp_path / "machine", path=f"{folder}:{os.defpath}") as running:
        yield Runs(running, pickler, tmp_path)


def test_an_environment_is_made_by_uv_once_and_then_found(python_on_path: Runs) -> None:
    """Wheels arrive under their names, named by a line or not; the function imports them; the second time nothing is done."""
    runs = python_on_path
    wheels = (wheel(runs.folder, "first"), wheel(runs.folder, "second"))
    wanted = recipe(requirements=f"# by file\n./{wheels[0].name}\n", wheels=wheels)
    lines: list[str] = []

    def function() -> list[str]:
        from importlib import import_module

        return [str(import_module(name).NAME) for name in ("first", "second")]

    with runs.session() as session:
        python = session.build_environment(wanted, lines.append)
        # Where it is there, nobody has to fetch uv for the machine's platform.
        assert session.build_environment(wanted, pytest.fail, pytest.fail) == python
        session.start(replace(runs.task(function, imports=("first", "second")), python=python))
        outcome = runs.outcome(session)
    assert any("first==1.0" in line for line in lines)
    assert outcome.value == ["first", "second"]
    # It may hold the passwords of indexes, and the environment stays.
    assert not list(runs.server.home.parent.rglob("requirements.txt"))


def test_a_half_made_environment_is_made_anew(python_on_path: Runs) -> None:
    """Without its marker nothing in the folder is trusted."""
    runs = python_on_path
    wanted = recipe(wheels=(wheel(runs.folder, "first"),))
    half = runs.server.home.parent / "cache" / "environments" / wanted.digest
    (half / "venv").mkdir(parents=True)
    (half / "venv" / "rubbish").touch()
    with runs.session() as session:
        session.build_environment(wanted, lambda line: None)
    assert (half / ".ready").exists()
    assert not (half / "venv" / "rubbish").exists()


def test_constraints_hold_on_the_machine(python_on_path: Runs) -> None:
    """For what a requirement needs, too; nothing of them is left behind."""
    runs = python_on_path
    (links := runs.folder / "links").mkdir()
    for version in ("1.0", "2.0"):
        wheel(links, "first", version)
    wanted = recipe(
        requirements=f"--no-index\n--find-links {links}\nfirst\n", constraints="first<2\n"
    )
    lines: list[str] = []
    with runs.session() as session:
        session.build_environment(wanted, lines.append)
    assert any("first==1.0" in line for line in lines)
    assert not list(runs.server.home.parent.rglob("constraints.txt"))


def test_an_environment_that_fails_its_check_is_not_used(python_on_path: Runs) -> None:
    """The check runs in it; its words are the refusal's, and the next run makes it anew."""
    runs = python_on_path
    wanted = recipe(wheels=(wheel(runs.folder, "first"),), checks=("import first",))
    refused = recipe(wheels=wanted.wheels, checks=("import first", "raise SystemExit('no GPU')"))
    with runs.session() as session:
        session.build_environment(wanted, lambda line: None)
        with pytest.raises(EnvironmentFailed, match="no GPU"):
            session.build_environment(refused, lambda line: None)
    kept = runs.server.home.parent / "cache" / "environments"
    assert [(kept / made.digest / ".ready").exists() for made in (wanted, refused)] == [True, False]


def test_a_requirement_that_does_not_exist_fails_in_the_resolvers_words(
    python_on_path: Runs,
) -> None:
    """And a password of the index, which came as a variable, is in no line and in no file."""
    runs = python_on_path
    variables = {"UV_INDEX_URL": "http://me:pa55word@127.0.0.1:1/simple", "UV_OFFLINE": "1"}
    lines: list[str] = []
    wanted = recipe(requirements="no-such-package-at-all==9\n", variables=variables)
    with (
        runs.session() as session,
        pytest.raises(EnvironmentFailed, match="no-such-package-at-all") as failure,
    ):
        session.build_environment(wanted, lines.append)
    assert "pa55word" not in str(failure.value) + "".join(lines)
    for path in runs.server.home.parent.rglob("*"):
        assert (
            not path.is_file()
            or path.stat().st_size > 10 << 20
            or b"pa55word" not in path.read_bytes()
        )


def test_a_python_that_cannot_be_had_fails_in_the_resolvers_words(python_on_path: Runs) -> None:
    """The machine has none of that minor, and uv may not download one."""
    wanted = recipe(python="3.99", empty=True, variables={"UV_OFFLINE": "1"})
    with (
        python_on_path.session() as session,
        pytest.raises(EnvironmentFailed, match=r"Python 3\.99"),
    ):
        session.build_environment(wanted, lambda line: None)
