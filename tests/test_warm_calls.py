"""Calls of a warm run against a real OpenSSH server on loopback: whatever a call does, it stays in its own process."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import (
    CallTimeout,
    EnvironmentFailed,
    JobExited,
    JobKilled,
    JobStopped,
    PayloadError,
    UnpicklableResult,
)
from dayfly.runtime import ledger, payload, redact
from dayfly.runtime.agent import frames, job_folder, processes
from dayfly.runtime.session import Session
from dayfly.runtime.warm_line import Sent, WarmLine
from tests.proxy import proxy
from tests.sshd import Server, sshd
from tests.warm import WAIT_S, Warm, begun, warm, within

pytestmark = pytest.mark.sshd

RATE = 3
RATES = [3]


class Own:
    """A class of the user's."""

    def __init__(self, number: int) -> None:
        self.number = number


class Where:
    """Tells in which thread it was unpickled."""

    def __init__(self) -> None:
        self.thread = ""

    def __setstate__(self, state: object) -> None:
        self.thread = threading.current_thread().name


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One run for every test that leaves it as it was."""
    with warm(tmp_path_factory.mktemp("warm")) as run:
        yield run
        assert run.end().how == "finished"
        assert not run.lost


def await_file(path: Path) -> None:
    until = time.monotonic() + WAIT_S
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.005)


# -- what comes back


def test_each_call_has_its_value_its_process_and_its_output(shared: Warm, tmp_path: Path) -> None:
    """The end of what it printed is with the call, all of it in the run's log under its number; the ledger has its times."""

    def function(number: int) -> tuple[int, int]:
        print("number", number)
        print("unfinished", end="", file=sys.stderr)
        return number + 1, os.getpid()

    calls = [shared.submit(function, number) for number in range(3)]
    values = [call.result(WAIT_S) for call in calls]
    assert [value for value, _ in values] == [1, 2, 3]
    assert len({pid for _, pid in values}) == 3
    for number, call in enumerate(calls):
        assert (call.stdout, call.stderr) == (f"number {number}\n", "unfinished")
        assert f"[{call.number}] number {number}\n" in shared.log()
        assert f"[{call.number}] unfinished\n" in shared.log("stderr")
        assert call.times.total_s >= call.times.run_s > 0
        assert call.times.total_s > call.times.start_s > 0
        assert call.times.peak_rss_bytes > 1 << 20
    # Its line is written behind the value, which nobody has to wait for.
    until = time.monotonic() + WAIT_S
    while (ledger.totals(shared.folder) or {"calls": 0})["calls"] < 3:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_secret_that_the_kept_end_of_an_output_begins_in_is_masked(shared: Warm) -> None:
    """The machine keeps the end, and knows nothing of what is to be masked here."""
    redact.remember(["tiger-tiger-burning"])

    def function() -> None:
        print("tiger-tiger-burning" + "x" * ((16 << 10) - 10))

    call = shared.submit(function)
    call.result(WAIT_S)
    assert "-burning" in shared.log()
    assert call.stdout == redact.MASK + "x" * ((16 << 10) - 10) + "\n"


def test_a_callback_may_make_a_call_of_its_own_and_wait_for_it(shared: Warm) -> None:
    """It does not run in the thread by which that one's value comes."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()

    def function(number: int) -> int:
        time.sleep(0.2)
        return number + 1

    call = shared.submit(function, 1)
    call.add_done_callback(lambda done: heard.put(shared.call(function, done.result())))
    assert heard.get(timeout=WAIT_S) == 3


def test_callbacks_may_make_calls_and_wait_for_them(shared: Warm) -> None:
    """Several at once, and whatever comes back: they run in no thread by which a result comes."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()

    def function(own: Own, size: int = 0) -> tuple[Own, bytes]:
        time.sleep(0.2)
        return Own(own.number + 1), bytes(size)

    calls = shared.calls(function)

    def again(done: Future[Any]) -> None:
        own, _ = done.result()
        for size in (0, 1 << 20):
            own, data = calls.submit_all([((own, size), {})])[0].result(WAIT_S)
        heard.put(own.number + len(data))

    for number in range(3):
        calls.submit_all([((Own(number),), {})])[0].add_done_callback(again)
    found = within(lambda: sorted(heard.get() for _ in range(3)))
    assert found == [(1 << 20) + number for number in (3, 4, 5)]


def test_a_callback_that_exits_costs_no_other_call_its_value(
    shared: Warm, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, as a Future says it; what has come together with that call is there, too."""

    def function(number: int) -> Own:
        time.sleep(0.2)
        return Own(number)

    batch: list[Any] = [((number,), {}) for number in range(4)]
    line = shared.calls(function)
    calls = line.submit_all(batch, group=line.new_group())
    for call in calls[:2]:
        call.add_done_callback(lambda _: sys.exit(3))
    assert [call.result(WAIT_S).number for call in calls] == [0, 1, 2, 3]
    assert shared.call(function, 4).number == 4
    until = time.monotonic() + WAIT_S
    while caplog.text.count("exception calling callback") < 2:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_value_is_unpickled_behind_the_connection(shared: Warm) -> None:
    """What its class does then may take its time: log and pings come meanwhile."""

    def function() -> Where:
        return Where()

    assert shared.call(function).thread.startswith("dayfly-settle")


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(shared: Warm) -> None:
    """As from any run."""

    def function() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad") as raised:
        shared.call(function)
    assert any("in function" in note for note in raised.value.__notes__)


def test_what_cannot_come_back_says_so(shared: Warm) -> None:
    """A value that cannot be pickled, a module that is not installed, an exit with a code."""

    def imports() -> None:
        import surely_not_installed  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(UnpicklableResult):
        shared.call(threading.Lock)
    with pytest.raises(EnvironmentFailed, match="surely_not_installed"):
        shared.call(imports)
    with pytest.raises(JobExited, match=r"sys.exit\(3\)"):
        shared.call(sys.exit, 3)


def test_arguments_that_cannot_travel_are_named_and_nothing_is_sent(shared: Warm) -> None:
    """Nor what the function cannot be called with."""

    def function(number: object) -> None:
        return

    with socket.socket() as held, pytest.raises(PayloadError, match="argument 1"):
        shared.submit(function, held)
    with pytest.raises(PayloadError, match="cannot be called so"):
        shared.submit(function)
    assert shared.call(function, 1) is None


def test_numbers_of_calls_that_are_not_sent_are_missed_by_nobody(
    shared: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine would remember every later number by itself for as long as it is kept."""
    calls, forgone = shared.calls(abs), list[int]()
    monkeypatch.setattr(calls._line, "forgo", forgone.append)
    last = shared.submit(abs, -1).number
    with pytest.raises(PayloadError):
        calls.submit_all([((-1,), {}), ((-2,), {}), ((threading.Lock(),), {})])
    assert shared.submit(abs, -1).number == last + 3
    assert forgone == [last + 1, last + 2]


def test_a_large_value_that_is_here_is_not_left_there(tmp_path: Path) -> None:
    """Whoever has it may close at once: the result of the run has only what nobody has fetched."""
    with warm(tmp_path) as run:
        assert len(run.call(bytes, 1 << 20)) == 1 << 20
        assert run.call(abs, -1) == 1
        assert run.end().how == "finished"
        assert run.left() == {}


@pytest.mark.parametrize("lanes", [False, True])
def test_large_arguments_and_results_go_beside_the_line(shared: Warm, lanes: bool) -> None:
    """Whole, by frames or over lanes, and nothing of them stays on the machine."""
    blob = os.urandom((5 if lanes else 1) << 20)
    call = shared.submit(lambda data: data + b"!", blob)
    assert call.result(WAIT_S) == blob + b"!"
    assert call.times.download_s > 0
    assert shared.session._link is not None
    assert bool(shared.session._link.lanes._lanes) is lanes
    shared.call(abs, 1)
    until = time.monotonic() + WAIT_S
    while list((shared.job / "calls").glob("*.sealed")):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not list(shared.folder.glob("call-*"))


def test_a_class_of_the_users_is_the_same_in_function_and_argument(shared: Warm) -> None:
    """Though the two travel apart."""

    def function(own: Any) -> tuple[bool, Any]:
        return isinstance(own, Own), Own(own.number + 1)

    same, made = shared.call(function, Own(1))
    assert same
    assert isinstance(made, Own)
    assert made.number == 2


def test_a_coroutine_function_is_awaited_there(shared: Warm) -> None:
    """As in a run of one call."""

    async def function(number: int) -> int:
        return number + 1

    assert shared.call(function, 1) == 2


# -- what has changed is never run as it was


def test_a_changed_global_is_picked_up(shared: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that got another value, and one that was changed in place."""

    def function() -> int:
        return RATE * RATES[0]

    calls = shared.calls(function)
    first = calls.submit_all([((), {})])[0].result(WAIT_S)
    monkeypatch.setattr(sys.modules[__name__], "RATE", 4)
    second = calls.submit_all([((), {})])[0].result(WAIT_S)
    monkeypatch.setattr(sys.modules[__name__], "RATES", RATES.copy())
    RATES[0] = 5
    third = calls.submit_all([((), {})])[0].result(WAIT_S)
    assert (first, second, third) == (9, 12, 20)


# -- what a call does to its process


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGKILL, JobKilled), (signal.SIGSEGV, JobKilled), (0, JobExited)]
)
def test_a_crash_is_named_and_the_run_goes_on(
    shared: Warm, number: int, error: type[Exception]
) -> None:
    """Killed, crashed, or ended by os._exit."""

    def function(number: int) -> None:
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), number) if number else os._exit(3)

    with pytest.raises(error) as raised:
        shared.call(function, number)
    assert any("last words" in note for note in raised.value.__notes__)
    assert getattr(raised.value, "signal", 0) == number
    assert getattr(raised.value, "code", 3) == 3
    assert shared.call(abs, -1) == 1


def test_what_a_call_leaves_behind_ends_with_it(shared: Warm) -> None:
    """A thread that sleeps on, and a process in its group."""

    def function() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return subprocess.Popen(["sleep", "600"]).pid

    call = shared.submit(function)
    pid = call.result(WAIT_S)
    assert "threads were running" in call.stderr
    until = time.monotonic() + WAIT_S
    while pid in processes.process_table():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_call_sealed_for_another_number_is_not_made(shared: Warm, tmp_path: Path) -> None:
    """Nothing of it is unpickled: its process says why, and ends."""
    calls, keys = shared.calls(abs), shared.server.keys
    marker = tmp_path / "made"
    digest = calls._function.digest(shared.session, calls._data)
    made = calls._sent(digest, (-1,), {}, 0, None)
    head = b'{"function": "%s"}\n' % digest.encode()
    forged = frames.seal(
        keys.hmac_key,
        keys.run_id,
        frames.call_seq(made.call.number + 1),
        head + bytes(payload.pack_arguments(abs, (marker,), {})[0]),
    )
    calls._line.send([Sent(made.call, digest, forged)])
    with pytest.raises(JobExited):
        made.call.result(WAIT_S)
    assert "FrameError" in made.call.stderr


@pytest.mark.parametrize("what", ["changed", "another", "gone"])
def test_large_arguments_that_are_not_what_was_sent_are_not_loaded(shared: Warm, what: str) -> None:
    """Content lies under its digest, which the seal of the call names; what was changed there since shows that."""
    calls = shared.calls(len)
    digest = calls._function.digest(shared.session, calls._data)
    made, other, right = (
        calls._sent(digest, (os.urandom(1 << 20),), {}, 0, None) for _ in range(3)
    )
    assert made.blob != other.blob
    content = Path(shared.server.machine.cache_dir, "blobs", made.blob)
    sent = made
    if what == "changed":
        with content.open("r+b") as file:
            file.seek(1 << 19)
            file.write(bytes(16))
    elif what == "gone":
        content.unlink()
    else:
        sent = dataclasses.replace(made, blob=other.blob)
    calls._line.send([sent])
    with pytest.raises(JobExited):
        made.call.result(WAIT_S)
    assert ("FileNotFoundError" if what == "gone" else "FrameError") in made.call.stderr
    calls._line.send([right])
    assert right.call.result(WAIT_S) == 1 << 20


# -- stopping


def test_one_call_is_stopped_and_the_others_go_on(shared: Warm, tmp_path: Path) -> None:
    """One that runs gets to its `finally`, one that ignores that is killed; one that waits is never begun."""

    def runs(begun: Path, ended: Path) -> None:
        try:
            begun.touch()
            time.sleep(600)
        finally:
            ended.touch()

    def ignores(begun: Path) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        begun.touch()
        time.sleep(600)

    polite = shared.submit(runs, tmp_path / "begun", tmp_path / "ended")
    rude = shared.submit(ignores, tmp_path / "rude")
    for name in ("begun", "rude"):
        await_file(tmp_path / name)
    waiting = shared.submit(runs, tmp_path / "never", tmp_path / "never")
    for call in (waiting, polite, rude):
        call.stop()
        with pytest.raises(JobStopped):
            call.result(WAIT_S)
    assert (tmp_path / "ended").exists()
    assert not (tmp_path / "never").exists()
    assert shared.call(abs, -1) == 1


def test_a_call_that_takes_too_long_is_ended_by_the_machine(shared: Warm) -> None:
    """It alone, and the error is a TimeoutError too."""
    with pytest.raises(CallTimeout, match=r"timeout of 0\.05 s") as raised:
        shared.call(time.sleep, 600, timeout_s=0.05)
    assert isinstance(raised.value, TimeoutError)
    assert shared.call(time.sleep, 0, timeout_s=60) is None


class Keeping:
    """Works for ever, and keeps its state when it is asked to."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __call__(self) -> None:
        Path(self.place, "began").touch()
        time.sleep(600)

    def checkpoint(self) -> None:
        Path(self.place, "kept").write_text("kept")


def test_a_callable_with_a_checkpoint_is_asked_for_it_when_its_call_is_ended(
    shared: Warm, tmp_path: Path
) -> None:
    """By its time-out; a wish of the client's is the same to it."""
    with pytest.raises(CallTimeout):
        shared.call(Keeping(str(tmp_path)), timeout_s=2)
    assert (tmp_path / "kept").read_text() == "kept"
    (tmp_path / "kept").unlink()
    (tmp_path / "began").unlink()
    call = shared.submit(Keeping(str(tmp_path)))
    await_file(tmp_path / "began")
    call.stop()
    with pytest.raises(JobStopped):
        call.result(WAIT_S)
    await_file(tmp_path / "kept")


# -- connections


def test_calls_come_back_once_however_often_the_connection_drops(tmp_path: Path) -> None:
    """200 of them, through a line that is cut again and again: each is made once, and its value comes once."""
    made = tmp_path / "made"

    def function(number: int, path: str) -> int:
        with Path(path).open("a") as file:
            file.write(f"{number}\n")
        return number

    with (
        sshd(tmp_path / "machine", is_new=False) as server,
        proxy(server.machine.port) as between,
        begun(server, tmp_path, between.port, {}) as run,
    ):
        calls = run.calls(function)
        between.cut_after = 30_000
        sent = []
        for number in range(0, 200, 10):
            batch: list[Any] = [((n, str(made)), {}) for n in range(number, number + 10)]
            sent += calls.submit_all(batch, group=number // 20 % 2)
        values = [call.result(WAIT_S) for call in sent]
        between.cut_after = None
        run.end()
    assert between.cuts > 1
    assert values == list(range(200))
    assert sorted(map(int, made.read_text().split())) == list(range(200))


def test_a_call_outlives_the_connection_it_came_by(tmp_path: Path) -> None:
    """Cut while it runs: it goes on, and its value comes over the next connection."""

    def function(begun: Path, go: Path) -> int:
        begun.touch()
        while not go.exists():
            time.sleep(0.005)
        return os.getpid()

    with (
        sshd(tmp_path / "machine", is_new=False) as server,
        proxy(server.machine.port) as between,
        begun(server, tmp_path, between.port, {}) as run,
    ):
        call = run.submit(function, tmp_path / "begun", tmp_path / "go")
        await_file(tmp_path / "begun")
        between.cut()
        (tmp_path / "go").touch()
        assert call.result(WAIT_S) > 0
        assert run.end().how == "finished"


# -- one process for all


def test_in_one_process_calls_keep_what_they_keep(tmp_path: Path) -> None:
    """Until a call crashes it, or the function is another one."""

    def function(name: str) -> tuple[int, int]:
        seen = vars(sys).setdefault("seen", [])
        seen.append(name)
        if name == "crash":
            os._exit(3)
        return os.getpid(), len(seen)

    def other() -> bool:
        return hasattr(sys, "seen")

    with warm(tmp_path, isolation="process", slots=0) as run:
        (pid, first), (same, second) = run.call(function, "a"), run.call(function, "b")
        assert (pid, first, second) == (same, 1, 2)
        with pytest.raises(JobExited):
            run.call(function, "crash")
        fresh, third = run.call(function, "c")
        assert fresh != pid
        assert third == 1
        assert run.call(other) is False
        print_calls = [run.submit(print, number) for number in range(3)]
        assert [call.result(WAIT_S) for call in print_calls] == [None] * 3
        assert [call.stdout for call in print_calls] == ["0\n", "1\n", "2\n"]
        assert run.end().how == "finished"
        assert run.log().endswith("0\n1\n2\n")


def test_a_number_that_is_large_goes_beside_the_line_as_any_large_value(tmp_path: Path) -> None:
    """Though a small one takes a way on which little is done."""
    with warm(tmp_path, isolation="process", slots=0) as run:
        call = run.submit(pow, 2, 1 << 23)
        assert call.result(WAIT_S) == 1 << (1 << 23)
        assert call.times.download_s > 0
        assert run.call(abs, -1) == 1
        assert run.end().how == "finished"


def await_shortcut(run: Warm, former: object = None) -> object:
    """Wait until calls can come straight to the process that makes them, by another way than the former one."""
    until = time.monotonic() + WAIT_S
    line = run.calls(abs)._line
    while line._shortcut is None or line._shortcut is former:
        assert time.monotonic() < until, "the machine has no shortcut"
        time.sleep(0.005)
    return line._shortcut


def test_calls_of_one_process_come_straight_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time; value, output and log are those of any call, and several at once go the usual way."""
    posted, post = list[int](), WarmLine._post

    def noted(self: WarmLine, calls: Iterable[Sent], more: dict[str, Any] | None = None) -> None:
        listed = list(calls)
        posted.extend(sent.call.number for sent in listed)
        post(self, listed, more)

    def function(number: int) -> tuple[int, int]:
        print("number", number)
        return number + 1, os.getpid()

    with warm(tmp_path, isolation="process", slots=0) as run:
        first, pid = run.call(function, 0)
        await_shortcut(run)
        monkeypatch.setattr(WarmLine, "_post", noted)
        calls = []
        for number in range(1, 20):
            calls.append(run.submit(function, number))
            assert calls[-1].result(WAIT_S) == (number + 1, pid)
        assert first == 1
        assert not posted
        assert [call.stdout for call in calls] == [f"number {n}\n" for n in range(1, 20)]
        assert all(call.times.peak_rss_bytes > 0 for call in calls)
        large = run.call(bytes, 1 << 20)
        assert large == bytes(1 << 20)
        # What is mostly small, and larger than what comes by itself.
        assert run.call(pow, 2, 3 << 20) == 2 ** (3 << 20)
        atoms = None, True, -1, 0.5
        back = [run.call(lambda atom: atom, atom) for atom in atoms]
        assert list(map(repr, back)) == list(map(repr, atoms))
        assert run.map(function, range(3)) != []
        assert posted
        assert run.end().how == "finished"
        log = run.log().split("\n")
        assert log[:20] == [f"number {n}" for n in range(20)]
        assert run.left() == {}, "what the client has is kept for it"


def test_calls_of_one_process_are_made_in_the_order_in_which_they_were_sent(tmp_path: Path) -> None:
    """Though the first of several comes straight, and the others do not; also where it is another function's."""

    def function(number: int) -> list[int]:
        seen: list[int] = vars(sys).setdefault("seen", [])
        seen.append(number)
        return list(seen)

    def other(number: int) -> list[int]:
        return function(number)

    with warm(tmp_path, isolation="process", slots=0) as run:
        for called in (function, other) * 3:
            run.call(abs, -1)
            await_shortcut(run)
            calls = [run.submit(called, number) for number in range(5)]
            assert calls[-1].result(WAIT_S) == [0, 1, 2, 3, 4]
        assert run.end().how == "finished"


def test_whatever_ends_that_process_ends_one_call(tmp_path: Path) -> None:
    """A stop, a crash, its time: each is named, and the next call comes to another process."""

    def function(what: str, begun: Path) -> int:
        if what == "crash":
            os._exit(3)
        if what == "wait":
            begun.touch()
            time.sleep(600)
        return os.getpid()

    with warm(tmp_path, isolation="process", slots=0) as run:
        pids = {run.call(function, "pid", tmp_path)}
        shortcut = await_shortcut(run)
        waits = run.submit(function, "wait", tmp_path / "stopped")
        await_file(tmp_path / "stopped")
        waits.stop()
        with pytest.raises(JobStopped):
            waits.result(WAIT_S)
        pids.add(run.call(function, "pid", tmp_path))
        shortcut = await_shortcut(run, shortcut)
        with pytest.raises(JobExited) as raised:
            run.call(function, "crash", tmp_path)
        assert raised.value.code == 3
        pids.add(run.call(function, "pid", tmp_path))
        shortcut = await_shortcut(run, shortcut)
        with pytest.raises(CallTimeout):
            run.call(function, "wait", tmp_path / "late", timeout_s=0.3)
        pids.add(run.call(function, "pid", tmp_path))
        await_shortcut(run, shortcut)
        assert len(pids) == 4
        assert run.end().how == "finished"


@pytest.mark.parametrize("slots", [0, 2], ids=["straight", "by the zygote"])
def test_a_call_is_not_ended_for_the_one_before_it(tmp_path: Path, slots: int) -> None:
    """That one was to end, and came to its own end first: the signal is heard when the next one is at work in its process."""

    def function(waits_s: float) -> tuple[int, bool]:
        if waits_s:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            time.sleep(waits_s)
        is_there = signal.SIGTERM in signal.sigpending()
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM} if waits_s else ())
        time.sleep(0.05)
        return os.getpid(), is_there

    with warm(tmp_path, isolation="process", slots=slots) as run:
        pid, _ = run.call(function, 0.0)
        if not slots:
            await_shortcut(run)
        for timeout_s in (0.2, None):
            call = run.submit(function, 1.0, timeout_s=timeout_s)
            if timeout_s is None:
                time.sleep(0.2)
                call.stop()
            assert isinstance(call.exception(WAIT_S), JobStopped | None)
            assert run.call(function, 0.0) == (pid, True)
            assert run.call(function, 0.0) == (pid, False)
        # It is still one that can be ended.
        with pytest.raises(CallTimeout, match=r"0\.3 s"):
            run.call(time.sleep, 600, timeout_s=0.3)
        assert run.call(function, 0.0)[0] != pid
        assert run.end().how == "finished"


def test_straight_calls_are_made_once_however_often_the_connection_drops(tmp_path: Path) -> None:
    """300 of them, one after the other, through a line that is cut again and again."""
    made = tmp_path / "made"

    def function(number: int, path: str) -> int:
        with Path(path).open("a") as file:
            file.write(f"{number}\n")
        return number

    with (
        sshd(tmp_path / "machine") as server,
        proxy(server.machine.port) as between,
        begun(server, tmp_path, between.port, {"isolation": "process", "slots": 0}) as run,
    ):
        calls = run.calls(function)
        between.cut_after = 40_000
        for number in range(300):
            sent = calls.submit_all([((number, str(made)), {})])
            assert sent[0].result(WAIT_S) == number
        between.cut_after = None
        run.end()
    assert between.cuts > 1
    assert list(map(int, made.read_text().split())) == list(range(300))


@pytest.mark.parametrize("ends_by", ["crash", "kill"])
def test_what_the_zygote_hears_late_it_hears_whole(tmp_path: Path, ends_by: str) -> None:
    """Of calls that were made, and of the one that ended their process, while it was not let run: each is made once."""
    made = tmp_path / "made"

    def function(number: int, path: str) -> int:
        with Path(path).open("a") as file:
            file.write(f"{number}\n")
        if number == 40 and ends_by == "crash":
            os._exit(3)
        if number == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        print("number", number)
        return number

    with warm(tmp_path, isolation="process", slots=0) as run:
        zygote = run.call(os.getppid)
        run.call(function, 0, str(made))
        await_shortcut(run)
        assert [run.call(function, number, str(made)) for number in range(1, 20)] == [*range(1, 20)]
        os.kill(zygote, signal.SIGSTOP)
        try:
            assert [run.call(function, number, str(made)) for number in range(20, 40)] == [
                *range(20, 40)
            ]
            last = run.submit(function, 40, str(made))
            until = time.monotonic() + WAIT_S
            while "\n40\n" not in made.read_text():
                assert time.monotonic() < until
                time.sleep(0.01)
            assert not last.done()
        finally:
            os.kill(zygote, signal.SIGCONT)
        with pytest.raises(JobExited if ends_by == "crash" else JobKilled):
            last.result(WAIT_S)
        assert run.call(function, 41, str(made)) == 41
        assert run.end().how == "finished"
        assert run.log().split("\n")[:40] == [f"number {number}" for number in range(40)]
        assert run.left() == {}
    assert list(map(int, made.read_text().split())) == list(range(42))


def test_a_call_that_comes_straight_is_stopped_and_ended_as_any(tmp_path: Path) -> None:
    """Also where many have come just before it, so that the zygote is not told of each at once; what it prints is seen."""

    def function(begun: Path | None) -> int:
        if begun is not None:
            print("begun", flush=True)
            begun.touch()
            time.sleep(600)
        return 1

    with warm(tmp_path, isolation="process", slots=0) as run:
        shortcut: object = None
        for number in range(2):
            run.call(function, None)
            shortcut = await_shortcut(run, shortcut)
            assert [run.call(function, None) for _ in range(20)] == [1] * 20
            begun_at = tmp_path / f"begun-{number}"
            call = run.submit(function, begun_at, timeout_s=1.0 if number else None)
            await_file(begun_at)
            until = time.monotonic() + WAIT_S
            while run.log().count("begun") <= number:
                assert time.monotonic() < until
                time.sleep(0.005)
            if not number:
                call.stop()
            with pytest.raises(CallTimeout if number else JobStopped):
                call.result(WAIT_S)
        assert run.end().how == "finished"


# -- places


def test_each_slot_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """Two calls at once see one each; a third waits for the first to be gone."""

    def function(mine: Path, others: Path) -> str:
        mine.touch()
        while not others.exists():
            time.sleep(0.005)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    variables = {"CUDA_VISIBLE_DEVICES": "3,5"}
    with warm(tmp_path, by="gpu", variables=variables) as run:
        a, b = tmp_path / "a", tmp_path / "b"
        pair = [run.submit(function, a, b), run.submit(function, b, a)]
        third = run.submit(function, a, b)
        assert {call.result(WAIT_S) for call in pair} == {"3", "5"}
        assert third.result(WAIT_S) in ("3", "5")
        assert run.calls(function).slots == 2


# -- ends


def test_a_client_that_is_killed_leaves_a_run_that_ends_by_itself(tmp_path: Path) -> None:
    """What runs is let finish; what nobody has fetched is in the result of the run."""
    script = """
import sys
from pathlib import Path
from tests.sshd import Server
from tests.warm import begun
import pickle, time

server = pickle.loads(Path(sys.argv[1]).read_bytes())
folder = Path(sys.argv[2])


def function(begun, go):
    import time
    begun.touch()
    while not go.exists():
        time.sleep(0.005)
    return "late"


with begun(server, folder, None, {"linger_s": 0.05}) as run:
    assert run.call(abs, -1) == 1
    run.submit(function, folder / "begun", folder / "go")
    time.sleep(600)
"""
    with sshd(tmp_path / "machine", is_new=False) as server:
        (tmp_path / "server").write_bytes(pickle.dumps(server))
        (tmp_path / "client.py").write_text(script)
        root = str(Path(__file__).parent.parent)
        client = subprocess.Popen(
            [sys.executable, tmp_path / "client.py", tmp_path / "server", tmp_path],
            env={**os.environ, "PYTHONPATH": root},
        )
        try:
            await_file(tmp_path / "begun")
        finally:
            client.kill()
            client.wait()
        (tmp_path / "go").touch()
        run = Warm(server, session := _session(server), tmp_path / "run", [])
        with session:
            assert session.follow(lambda *_: None).how == "finished"
            left = run.left()
    assert left[2] == "late"
    # The first has come home; the word of that may not have.
    assert set(left) <= {1, 2}


def _session(server: Server) -> Session:
    return Session(server.machine, server.keys)


def test_a_run_that_nobody_calls_ends_though_its_client_is_there(tmp_path: Path) -> None:
    """Not while a call runs or waits, nor while one is made ready that has much to bring, however long these take."""
    with warm(tmp_path, slots=1, idle_s=2.5) as run:
        pair = [run.submit(time.sleep, 2.0) for _ in range(2)]
        assert [call.result(WAIT_S) for call in pair] == [None, None]
        calls = run.calls(abs)
        with calls._line.coming():
            time.sleep(4.0)
        assert run.session.status().state == "running"
        assert run.call(abs, -1) == 1
        assert run.session.follow(lambda *_: None).how == "finished"
        assert run.left() == {}
        assert not run.lost


def test_a_stop_of_the_run_ends_every_process(tmp_path: Path) -> None:
    """The run is stopped as any job is, and who waits for a call is told when the job's end is known."""

    def function(pids: Path) -> None:
        pids.with_suffix(".part").write_text(f"{os.getpid()} {os.getppid()}")
        pids.with_suffix(".part").rename(pids)
        time.sleep(600)

    with warm(tmp_path) as run:
        call = run.submit(function, tmp_path / "pids")
        await_file(tmp_path / "pids")
        assert run.session.stop().how == "stopped"
        run.calls(function).end(JobStopped("stopped"))
        with pytest.raises(JobStopped):
            call.result(WAIT_S)
    pids = set(map(int, (tmp_path / "pids").read_text().split()))
    assert not pids & set(processes.process_table())


def sleeps(pid: Path) -> None:
    """Says in whose process."""
    pid.with_suffix(".part").write_text(str(os.getpid()))
    pid.with_suffix(".part").rename(pid)
    time.sleep(600)


def test_at_its_deadline_the_run_leaves_what_has_come_to_its_end(tmp_path: Path) -> None:
    """The machine ends it, and the result has what nobody has fetched by then."""
    with warm(tmp_path) as run:
        call = run.submit(sleeps, tmp_path / "pid")
        await_file(tmp_path / "pid")
        job_folder.request_stop(job_folder.JobFolder(str(run.job)), "deadline")
        end = run.session.follow(lambda *_: None)
        assert (end.how, end.cue) == ("finished", "deadline")
        assert isinstance(run.left()[call.number], JobStopped)


def test_a_call_that_ends_of_the_stop_before_the_zygote_sees_to_that_was_stopped(
    tmp_path: Path,
) -> None:
    """Its end is no crash of its own: the zygote, which is held up here, knows of the stop by then."""
    with (
        sshd(tmp_path / "machine", is_new=False) as server,
        begun(server, tmp_path, None, {}, {"grace_s": WAIT_S}) as run,
    ):
        call = run.submit(sleeps, tmp_path / "pid")
        await_file(tmp_path / "pid")
        zygote = json.loads((run.job / "process.json").read_text())["pid"]
        os.kill(zygote, signal.SIGSTOP)
        job_folder.request_stop(job_folder.JobFolder(str(run.job)), "deadline")
        until = time.monotonic() + WAIT_S
        while int((tmp_path / "pid").read_text()) in processes.process_table():
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(zygote, signal.SIGCONT)
        assert run.session.follow(lambda *_: None).how == "finished"
        assert isinstance(run.left()[call.number], JobStopped)
