"""The agent: frames that only their run can make, and each of its modes in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dayfly.runtime.agent import (
    arrival as agent_arrival,
)
from dayfly.runtime.agent import (
    blobs,
    facts,
    files,
    frames,
    gpus,
    job_folder,
    processes,
    sealed_writer,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
RUN, OTHER_RUN = secrets.token_hex(16), "f" * 32
pytestmark = pytest.mark.process


# -- pieces


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(8)), st.data())
def test_pieces_make_a_whole_in_any_order(order: list[int], data: st.DataObject) -> None:
    """What is there, and what is not, is known after each, also where one was torn and the next goes on with it."""
    ends = sorted(data.draw(st.sets(st.integers(1, 99), min_size=8, max_size=8)))
    pieces = list(zip([0, *ends], ends, strict=False))
    arrival, there = agent_arrival.Arrival(ends[-1]), set[int]()
    for start, end in (pieces[number] for number in order):
        for part in sorted({data.draw(st.integers(start, end)), end}):
            arrival.note(start, part, end)
            there |= set(range(start, part))
            for known in (arrival, agent_arrival.Arrival(arrival.size, arrival.ranges())):
                gaps = {place for gap in known.gaps() for place in range(*gap)}
                assert gaps == set(range(arrival.size)) - there
                assert known.have == min(gaps, default=arrival.size)
    assert arrival.ranges() == [(0, arrival.size)]


def test_whoever_waits_for_pieces_hears_of_a_failure() -> None:
    """Instead of waiting for what will not come."""
    arrival = agent_arrival.Arrival(10)
    arrival.note(0, 5, 10)
    assert arrival.await_more(4) == 5
    arrival.fail(OSError("full"))
    with pytest.raises(OSError, match="full"):
        arrival.await_more(5)


# -- frames


@given(st.binary(max_size=2000), st.integers(0, 2**64 - 1))
def test_what_was_sealed_is_unsealed(payload: bytes, seq: int) -> None:
    """Any payload at any place comes back as it was."""
    assert frames.unseal(KEY, RUN, seq, frames.seal(KEY, RUN, seq, payload)) == payload


@given(st.binary(max_size=300), st.data())
def test_one_changed_bit_is_noticed(payload: bytes, data: st.DataObject) -> None:
    """Wherever it is, in the header or in the payload."""
    sealed = bytearray(frames.seal(KEY, RUN, 1, payload))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(frames.FrameError):
        frames.unseal(KEY, RUN, 1, bytes(sealed))


@given(st.binary(max_size=300), st.data())
def test_truncated_and_longer_frames_are_refused(payload: bytes, data: st.DataObject) -> None:
    """A frame has its length in its header, which is authenticated."""
    sealed = frames.seal(KEY, RUN, 1, payload)
    with pytest.raises(frames.FrameError):
        frames.unseal(KEY, RUN, 1, sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    with pytest.raises(frames.FrameError):
        frames.unseal(KEY, RUN, 1, sealed + data.draw(st.binary(min_size=1, max_size=9)))


@pytest.mark.parametrize(
    ("key", "run", "seq"),
    [(OTHER_KEY, RUN, 1), (KEY, OTHER_RUN, 1), (KEY, RUN, 0), (KEY, RUN, 2)],
    ids=["key", "run", "replayed", "early"],
)
def test_a_frame_of_another_key_run_or_place_is_refused(key: bytes, run: str, seq: int) -> None:
    """A task is no result, a result of one run is none of another."""
    with pytest.raises(frames.FrameError):
        frames.unseal(key, run, seq, frames.seal(KEY, RUN, 1, b"payload"))


@given(st.binary(max_size=400))
def test_rubbish_is_refused(rubbish: bytes) -> None:
    """Whatever arrives, the answer is FrameError and nothing else."""
    with pytest.raises(frames.FrameError):
        frames.unseal(KEY, RUN, 0, rubbish)


@given(st.integers(1, 2**32), st.integers(1, 2**32))
def test_no_call_and_no_result_stands_in_another_s_place(one: int, other: int) -> None:
    """Nor in that of the run's own task and result."""
    places = {frames.TASK_SEQ, frames.RESULT_SEQ}
    for number in {one, other}:
        mine = {frames.call_seq(number), frames.call_result_seq(number)}
        assert len(mine) == 2
        assert not mine & places
        places |= mine


def test_the_same_key_serves_no_other_channel_or_direction() -> None:
    """The keys of two channels, and of the two directions of one, are all different."""
    keys = {*frames.channel_keys(KEY, b"a" * 16), *frames.channel_keys(KEY, b"b" * 16), KEY}
    assert len(keys) == 5


@given(st.lists(st.binary(max_size=500), max_size=5))
def test_a_sealed_file_is_the_frame_of_all_that_was_written(
    tmp_path_factory: Any, parts: list[bytes]
) -> None:
    """Written piece by piece it equals what `seal` makes of the whole, and passes the same check."""
    path = tmp_path_factory.mktemp("sealed") / "file"
    writer = sealed_writer.SealedWriter(str(path), KEY, RUN, 1)
    for part in parts:
        writer.write(part)
    assert not path.exists()
    writer.commit()
    assert path.read_bytes() == frames.seal(KEY, RUN, 1, b"".join(parts))
    frames.check_sealed_file(KEY, RUN, 1, str(path))
    with pytest.raises(frames.FrameError):
        frames.check_sealed_file(KEY, OTHER_RUN, 1, str(path))


def test_a_message_is_taken_apart_as_it_was_put_together() -> None:
    """Head and bytes."""
    assert frames.decode(frames.encode({"op": "put", "n": 1}, b"\0body")) == (
        {"op": "put", "n": 1},
        b"\0body",
    )


# -- run


@pytest.fixture
def job(tmp_path: Path) -> job_folder.JobFolder:
    folder = job_folder.JobFolder(str(tmp_path / f"job-{RUN}"))
    for name in ("", "work", "outputs"):
        Path(folder.file(name)).mkdir()
    for name in ("stdout.log", "stderr.log", "supervisor.log"):
        Path(folder.file(name)).touch()
    return folder


def place_task(job: job_folder.JobFolder, function: Any, *arguments: Any, **header: Any) -> None:
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    head = {"python": minor, "function": "m:f", "imports": [], "sources": {}, **header}
    pickled = cloudpickle.dumps((function, arguments, {}), protocol=5)
    sealed = frames.seal(KEY, RUN, frames.TASK_SEQ, json.dumps(head).encode() + b"\n" + pickled)
    Path(job.file("task.sealed")).write_bytes(sealed)


def order(**more: Any) -> bytes:
    pickler = str(Path(cloudpickle.__file__).parent.parent)
    given = {"run_id": RUN, "key": KEY.hex(), "secrets": {}, "pickler": pickler, "lock": 0}
    return json.dumps({**given, **more}).encode()


def call(
    mode: str, argument: str, stdin: bytes, python: str = sys.executable
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        processes.launch_command(python, (), mode, argument),
        input=stdin,
        capture_output=True,
        check=False,
    )


def result(job: job_folder.JobFolder) -> tuple[dict[str, Any], bytes]:
    payload = frames.unseal(
        KEY, RUN, frames.RESULT_SEQ, Path(job.file("result.sealed")).read_bytes()
    )
    head, _, pickled = payload.partition(b"\n")
    return json.loads(head), pickled


def test_run_leaves_the_sealed_value(job: job_folder.JobFolder) -> None:
    """The whole contract of a result's header is there."""
    place_task(job, lambda a, b: a * b, 6, 7)
    ended = call("run", job.path, order())
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    header, pickled = result(job)
    assert pickle.loads(pickled) == 42
    assert (header["outcome"], header["type"], header["threads"]) == ("value", "builtins.int", [])
    assert set(header["provenance"]) == {"host", "pid", "python", "gpu", "driver"}
    assert header["seconds"] >= 0


def test_tracebacks_show_source_lines_that_the_machine_does_not_have(
    job: job_folder.JobFolder,
) -> None:
    """The client sends the text of its files along."""
    source = "def function():\n    raise RuntimeError('here')  # line of the client\n"
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<notebook cell 3>", "exec"), names)
    place_task(job, names["function"], sources={"<notebook cell 3>": source})
    assert call("run", job.path, order()).returncode == 0
    header, pickled = result(job)
    assert "# line of the client" in header["traceback"]
    assert str(pickle.loads(pickled)) == "here"


def test_another_minor_of_python_is_refused(job: job_folder.JobFolder) -> None:
    """A pickled function is bytecode of one minor: nothing is loaded under another."""
    place_task(job, lambda: None, python="3.3")
    ended = call("run", job.path, order())
    assert ended.returncode == 78
    assert b"3.3" in ended.stderr
    assert not Path(job.file("result.sealed")).exists()


def test_a_module_that_is_missing_only_at_loading_is_named_too(
    job: job_folder.JobFolder, tmp_path: Path
) -> None:
    """A function that is pickled by reference imports its module when it is loaded."""
    (tmp_path / "only_here.py").write_text("def function():\n    return 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here  # type: ignore[import-not-found]

        place_task(job, only_here.function)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("only_here", None)
    assert call("run", job.path, order()).returncode == 0
    assert result(job)[0]["modules"] == ["only_here"]


@pytest.mark.parametrize("fault", ["truncated", "other run", "replayed", "other key"])
def test_a_task_that_is_not_authentic_is_not_unpickled(
    job: job_folder.JobFolder, tmp_path: Path, fault: str
) -> None:
    """The process ends with the frame's fault on stderr, and the function's mark is not there."""
    marker = tmp_path / "marker"
    place_task(job, lambda path: Path(path).touch(), str(marker))
    task = Path(job.file("task.sealed"))
    payload = frames.unseal(KEY, RUN, frames.TASK_SEQ, task.read_bytes())
    forged = {
        "truncated": task.read_bytes()[:-1],
        "other run": frames.seal(KEY, OTHER_RUN, frames.TASK_SEQ, payload),
        "replayed": frames.seal(KEY, RUN, frames.RESULT_SEQ, payload),
        "other key": frames.seal(OTHER_KEY, RUN, frames.TASK_SEQ, payload),
    }
    task.write_bytes(forged[fault])
    ended = call("run", job.path, order())
    assert ended.returncode == 1
    assert b"FrameError" in ended.stderr
    assert not marker.exists()
    assert not Path(job.file("result.sealed")).exists()


def test_exit_functions_run_after_the_result_is_safe(job: job_folder.JobFolder) -> None:
    """What a library registered with atexit still happens."""

    def function() -> None:
        import atexit

        atexit.register(print, "goodbye")

    place_task(job, function)
    assert call("run", job.path, order()).stdout == b"goodbye\n"


def test_a_value_whose_repr_fails_is_still_described(job: job_folder.JobFolder) -> None:
    """An unpicklable value is told by its type where it cannot tell itself."""

    def function() -> object:
        class Shy:
            def __repr__(self) -> str:
                raise OSError("no")

            def __reduce__(self) -> str:
                raise TypeError("not me")

        return Shy()

    place_task(job, function)
    assert call("run", job.path, order()).returncode == 0
    header, pickled = result(job)
    assert header["outcome"] == "unpicklable_value"
    assert "whose repr raised OSError" in header["text"]
    assert "not me" in header["traceback"]
    assert pickled == b""


# -- supervise


def supervised(job: job_folder.JobFolder, **more: Any) -> dict[str, Any]:
    limits = {
        "python": sys.executable,
        "variables": {},
        "max_runtime_s": 60,
        "grace_s": 0.2,
        "hold_s": 60,
        **more,
    }
    assert call("supervise", job.path, order(**limits)).returncode == 0
    while (end := job.end()) is None:
        time.sleep(0.01)
    return end


def test_supervise_detaches_and_records_the_end(job: job_folder.JobFolder) -> None:
    """Its first process returns at once; what it left behind has the times and the peak of memory."""
    place_task(job, lambda: print("hello"))
    end = supervised(job)
    assert (end["how"], end["code"], end["signal"]) == ("finished", 0, 0)
    assert end["peak_rss_bytes"] > 1 << 20
    assert Path(job.file("stdout.log")).read_bytes() == b"hello\n"


def test_an_interpreter_that_does_not_exist_is_an_exit_with_127(job: job_folder.JobFolder) -> None:
    """And stderr says what could not be started."""
    place_task(job, lambda: None)
    end = supervised(job, python="/nowhere/python3")
    assert (end["how"], end["code"]) == ("exited", 127)
    assert "cannot start /nowhere/python3" in Path(job.file("stderr.log")).read_text()


def test_a_function_that_ignores_sigterm_is_killed_after_its_grace(
    job: job_folder.JobFolder,
) -> None:
    """Asked first, then ended, and recorded as the deadline's doing."""

    def function() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)

    place_task(job, function)
    end = supervised(job, max_runtime_s=0.5)
    assert (end["how"], end["signal"], end["out_of_memory"]) == ("deadline", 9, False)


def test_a_value_that_came_in_time_of_grace_is_kept(job: job_folder.JobFolder) -> None:
    """A function that takes the stop as its cue to return leaves its result."""

    def function() -> str:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            return "checkpoint"
        return "never"

    place_task(job, function)
    end = supervised(job, max_runtime_s=1, grace_s=10)
    assert end["how"] == "finished"
    assert pickle.loads(result(job)[1]) == "checkpoint"


def test_a_value_that_came_after_a_stop_is_kept_and_the_stop_is_told(
    job: job_folder.JobFolder,
) -> None:
    """Somebody wished for it, and is told that it was done."""

    def function() -> str:
        try:
            print("ready")
            time.sleep(60)
        except KeyboardInterrupt:
            return "checkpoint"
        return "never"

    def stop() -> None:
        while b"ready" not in Path(job.file("stdout.log")).read_bytes():
            time.sleep(0.01)
        Path(job.file("stop")).write_text("stopped")
        started = json.loads(Path(job.file("started.json")).read_text())
        os.kill(started["pid"], signal.SIGTERM)

    place_task(job, function)
    stopping = threading.Thread(target=stop)
    stopping.start()
    end = supervised(job, grace_s=10)
    stopping.join()
    assert end["how"] == "stopped"
    assert pickle.loads(result(job)[1]) == "checkpoint"


@pytest.mark.parametrize(("hold_s", "held_s"), [(0, 60), (300, 300), (7200, 3600)])
def test_the_end_can_be_read_only_after_the_hold_is_set(
    job: job_folder.JobFolder, home: Path, hold_s: float, held_s: float
) -> None:
    """An attached client finds at least a minute to fetch the result, and sets its own deadline after it."""
    deadline = home / f"deadline-{RUN}.json"
    armed = files.boot_clock_s() + 3600
    deadline.write_text(json.dumps({"at": armed}))
    place_task(job, lambda: None)
    before = files.boot_clock_s()
    supervised(job, hold_s=hold_s)
    at = json.loads(deadline.read_text())["at"]
    # The process that watches the deadline ends when the file is gone.
    deadline.unlink()
    assert min(before + held_s, armed) <= at <= min(files.boot_clock_s() + held_s, armed)


def test_a_hold_that_cannot_be_set_does_not_hide_the_end(
    job: job_folder.JobFolder, home: Path
) -> None:
    """The deadline that is armed stays, as on a disk that is full."""
    deadline = home / f"deadline-{RUN}.json"
    deadline.write_text(json.dumps({"at": files.boot_clock_s() + 3600}))
    (home / f"deadline-{RUN}.json.lock").mkdir()
    place_task(job, lambda: None)
    assert supervised(job)["how"] == "finished"


def test_a_job_that_was_asked_to_stop_before_it_began_is_stopped(job: job_folder.JobFolder) -> None:
    """The request is in the folder, whoever comes first."""
    Path(job.file("stop")).write_text("stopped")
    place_task(job, lambda: time.sleep(60))
    assert supervised(job)["how"] == "stopped"


# -- the machine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    yield tmp_path


def test_interpreters_are_found_without_being_started(home: Path) -> None:
    """A script that only chooses an interpreter does not count, a virtual environment's link is resolved."""
    real = home / ".pyenv/versions/3.77.1/bin/python3.77"
    for path, content in ((real, b"\x7fELF"), (home / "bin/python3.78", b"#!/bin/sh\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    (home / "bin/python3.77").symlink_to(real)
    found = facts.interpreters(str(home))
    assert found["3.77"] == str(real)
    assert "3.78" not in found


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'NVIDIA H100, 535.1'; echo 'NVIDIA H100, 535.1'",
            (["NVIDIA H100", "NVIDIA H100"], "535.1"),
        ),
        ("exit 9", ([], "")),
        ("exec sleep 60", ([], "")),
    ],
    ids=["two", "broken", "late"],
)
def test_the_gpus_are_asked_for_within_a_bound(home: Path, script: str, expected: object) -> None:
    """A tool that fails or hangs means no GPU is known, and never holds the run."""
    tool = home / "bin/nvidia-smi"
    tool.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    tool.chmod(0o755)
    assert gpus.GpuQuery().answer(timeout_s=2) == expected


def test_a_machine_without_the_tool_has_no_gpu(home: Path) -> None:
    """Nothing is started to find that out."""
    assert gpus.GpuQuery().answer() == ([], "")


def test_kills_for_want_of_memory_are_counted() -> None:
    """A number that can only rise; 0 where the platform does not tell."""
    assert processes.oom_kills() >= 0


def test_processes_are_found_by_parent_session_and_mark() -> None:
    """The three ways by which the end of a job finds all that belongs to it."""
    environment = {**os.environ, "DAYFLY_TEST_MARK": "x1"}
    with subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True) as sleeper:
        while sleeper.pid not in processes.carriers("DAYFLY_TEST_MARK=x1"):
            time.sleep(0.01)  # Until exec it is still a copy of this process.
        table = processes.process_table()
        assert table[sleeper.pid] == (os.getpid(), sleeper.pid)
        assert sleeper.pid in processes.descendants({os.getpid()}, table)
        processes.send_signal([sleeper.pid], signal.SIGKILL)
        sleeper.wait()
        processes.send_signal([sleeper.pid], signal.SIGKILL)
    assert not processes.carriers("DAYFLY_TEST_MARK=x1")


# As macOS prints it: `ps -axEww -o pid=,command=`, the environment behind the command and nothing between its words.
_PS_OF_MACOS = """\
    1 /sbin/launchd
  742 /usr/libexec/sshd-session: me@notty
 8121 /opt/homebrew/bin/python3.12 -I -S /Users/me/Library/Application Support/dayfly/runs/3f0c/machine/home/agents/5ad0/__init__.py run x HOME=/Users/me DAYFLY_RUN=3f0c DAYFLY_OUTPUT_DIR=/Users/me/Library/Application Support/dayfly/runs/3f0c/machine/home/job/outputs LANG=C
 8122 sleep 60 DAYFLY_OUTPUT_DIR=/Users/me/Library/Application Support/dayfly/runs/3f0c/machine/home/job/outputs
 8123 sleep 60 DAYFLY_OUTPUT_DIR=/Users/me/Library/Application Support/dayfly/runs/3f0c/machine/home/job/outputs2 DAYFLY_RUN=3f0c1
 8124 sleep 60 XDAYFLY_RUN=3f0c
"""


@pytest.mark.parametrize(
    ("mark", "carriers"),
    [
        ("DAYFLY_RUN=3f0c", {8121}),
        (
            "DAYFLY_OUTPUT_DIR=/Users/me/Library/Application Support/dayfly/runs/3f0c/machine/home/job/outputs",
            {8121, 8122},
        ),
        ("DAYFLY_RUN=none", set()),
    ],
)
def test_where_there_is_no_proc_the_mark_is_found_in_what_ps_prints(
    mark: str, carriers: set[int]
) -> None:
    """Also one with a space in it: the default home on macOS lies in "Application Support"."""
    assert processes._carriers_in(_PS_OF_MACOS, mark) == carriers


def test_content_that_nobody_uses_is_thrown_away(tmp_path: Path) -> None:
    """Not what a run has a link to, and not what was asked for just now."""
    for name in ("unused", "linked", "asked"):
        part = tmp_path / f"{name}.part"
        part.write_bytes(b"x")
        blobs.finish_blob(str(part), str(tmp_path / name))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").hardlink_to(tmp_path / "linked")
    made = (tmp_path / "linked").stat().st_ctime
    blobs.prune(str(tmp_path), made - 1)
    assert (tmp_path / "unused").exists()
    while (tmp_path / "asked").stat().st_ctime == made:
        assert blobs.is_whole(str(tmp_path / "asked"), 1)
    blobs.prune(str(tmp_path), (tmp_path / "asked").stat().st_ctime)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["asked", "linked", "run"]
    (tmp_path / "asked").chmod(0o600)
    (tmp_path / "asked").write_bytes(b"y")
    assert not blobs.is_whole(str(tmp_path / "asked"), 1)
    assert not (tmp_path / "asked").exists()
