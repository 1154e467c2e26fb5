"""The zygote: what must not end it, and what becomes of its calls where it ends all the same."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import selectors
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.errors import JobExited, JobKilled, JobStopped, UnpicklableResult
from dayfly.runtime import outcome
from dayfly.runtime.agent import files, frames, inbox, passing, processes
from dayfly.runtime.agent.call_book import CallBook
from dayfly.runtime.agent.call_child import Child
from dayfly.runtime.agent.call_output import CallLog, Printed
from dayfly.runtime.agent.children import Children
from dayfly.runtime.agent.client_line import ClientLine
from dayfly.runtime.agent.end_mark import EndMark
from dayfly.runtime.agent.forker import Forker
from dayfly.runtime.agent.in_child import InChild
from dayfly.runtime.agent.job_folder import JobFolder
from tests.sshd import sshd
from tests.test_warm_calls import await_file
from tests.warm import WAIT_S, begun, warm

pytestmark = pytest.mark.sshd


def sleeps(pid: Path) -> None:
    """Says in whose process."""
    pid.with_suffix(".part").write_text(str(os.getpid()))
    pid.with_suffix(".part").rename(pid)
    time.sleep(600)


# -- a full disk


def small_disk(home: Path, mib: int) -> list[str]:
    """A command before another one, to which a folder is a disk of that size."""
    mount = f"mount -t tmpfs -o size={mib}m none {shlex.quote(str(home))}"
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]


@pytest.mark.usefixtures("own_mounts")
def test_a_call_that_fills_the_disk_ends_no_other(tmp_path: Path) -> None:
    """What the log has no room for is missing there, and that is said as soon as there is room."""

    def fills(go: Path) -> str:
        disk = os.statvfs(".")
        with Path("x").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - (3 << 19))
        # At once, before any of it is passed on: the log takes what is left, and it is not enough.
        os.write(1, b"fifteen letters\n" * (1 << 16))
        while os.statvfs(".").f_bavail:
            time.sleep(0.005)
        go.touch()
        time.sleep(0.1)
        Path("x").unlink()
        return "freed"

    def waits(go: Path) -> str:
        while not go.exists():
            time.sleep(0.005)
        return "undisturbed"

    def log() -> str:
        return Path("../stdout.log").read_text()

    machine = tmp_path / "machine"
    with (
        sshd(machine, within=small_disk(machine / "home", 16)) as server,
        begun(server, tmp_path, None, {}) as run,
    ):
        calls = [run.submit(each, tmp_path / "go") for each in (waits, fills)]
        assert [call.result(WAIT_S) for call in calls] == ["undisturbed", "freed"]
        run.call(print, "after")
        text = run.call(log)
        assert text.count("bytes are missing here: the machine's disk was full") == 1
        assert text.endswith("] after\n")
        assert run.end().how == "finished"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full is Linux's")
def test_how_much_is_missing_in_the_log_is_said_once(tmp_path: Path) -> None:
    """In its place."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    room = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        log = CallLog(descriptor)
        log.write(b"lost")
        log.write(b"too")
        os.dup2(room, descriptor)
        log.write(b"here\n")
        log.write(b"and here\n")
    finally:
        os.close(descriptor)
        os.close(room)
    said = "\ndayfly: 7 bytes are missing here: the machine's disk was full\n"
    assert (tmp_path / "log").read_text() == said + "here\nand here\n"


# -- as many files as may be open


@contextlib.contextmanager
def room_for(count: int) -> Iterator[list[int]]:
    """This process can open so many more files, under the given numbers, and no further one."""
    numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(count + 1)]
    for number in numbers:
        os.close(number)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[count], hard))
    try:
        yield numbers[:count]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_child_that_cannot_be_forked_holds_no_file(tmp_path: Path, count: int) -> None:
    """It is tried again at every turn: it has two files and a channel, and any of them may be one too many."""
    with selectors.DefaultSelector() as selector:
        forker = Forker(
            str(tmp_path), selector, lambda _: None, lambda *_: 0, lambda: (), slates=True
        )
        with room_for(count) as numbers, pytest.raises(OSError, match="Too many open files"):
            forker.fork()
    for number in numbers:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    assert not list(tmp_path.iterdir())


def test_a_client_that_there_is_no_file_for_waits(tmp_path: Path) -> None:
    """The calls go on, and it is heard when there is one."""
    attached: list[int] = []
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as client:
        attach = attached.append
        line = ClientLine(selector, {}, lambda *_: None, attach, lambda *_: None)
        line.listen(str(tmp_path))
        try:
            files.in_folder(str(tmp_path), lambda: client.connect("zygote"))
            client.sendall(inbox.parcel(frames.encode({"generation": 1, "blobs": ""})))
            with room_for(0):
                for key, events in selector.select(WAIT_S):
                    key.data(events)
            assert not attached
            for _ in range(2):
                for key, events in selector.select(WAIT_S):
                    key.data(events)
            assert attached
        finally:
            line.close()


def test_a_process_that_may_open_no_further_file_goes_on_without_a_way_of_its_own(
    tmp_path: Path,
) -> None:
    """What it keeps is not lost: its calls come by the zygote."""
    heard = signal.getsignal(signal.SIGTERM)
    ours, theirs = socket.socketpair()
    client, way = socket.socketpair()
    book = CallBook(JobFolder(str(tmp_path)), bytes(32), "e" * 32)
    lent = inbox.parcel(frames.encode({"shortcut": 1, "blobs": "", "device": ""}))

    def goes_on(child: InChild) -> bool:
        told = child._received(inbox.Inbox())
        assert told is not None
        return [child._obey(each) for each in told] == [True]

    try:
        child = InChild(book, ([], ""), True, theirs, None, mark=EndMark())
        passing.send_with(ours, lent, way.fileno())
        with room_for(0):
            assert goes_on(child)
        assert child._shortcut is None
        passing.send_with(ours, lent, way.fileno())
        assert goes_on(child)
        assert client.recv(100) == inbox.parcel(frames.encode({"ready": True}))
        child._drop_shortcut()
    finally:
        signal.signal(signal.SIGTERM, heard)
        for each in (ours, theirs, client, way):
            each.close()


def test_the_zygote_is_told_of_a_straight_call_before_its_result_and_gets_only_what_it_must_give_on(
    tmp_path: Path,
) -> None:
    """One whose function is not here comes with its arguments; one that is made here does not come twice."""
    heard, key, run = signal.getsignal(signal.SIGTERM), bytes(32), "e" * 32
    ours, theirs = socket.socketpair()
    zygote = inbox.Inbox()
    usual = {"n": 1, "blob": "", "group": 0, "timeout_s": None}
    content = b'{"function": "here"}\n' + pickle.dumps(((-7,), {}))
    sealed = frames.seal(key, run, frames.call_seq(1), content)
    entry = {**usual, "size": len(sealed)}
    try:
        book = CallBook(JobFolder(str(tmp_path)), key, run)
        child = InChild(book, ([], ""), True, theirs, None, mark=EndMark())
        child._functions["here"] = None, abs
        for function in ("elsewhere", "here"):
            called = {"calls": [{**entry, "function": function}]}
            assert child._take_straight(frames.encode(called, sealed))
        refer, begun_here, result = zygote.feed(ours.recv(1 << 16))
    finally:
        signal.signal(signal.SIGTERM, heard)
        ours.close()
        theirs.close()
    assert refer == ({"refer": {**entry, "function": "elsewhere"}}, sealed)
    assert begun_here == ({"begun": {"calls": [{**entry, "function": "here"}]}}, b"")
    assert (result[0]["n"], result[0]["told"]) == (1, None)
    value = frames.unseal(key, run, frames.call_result_seq(1), result[1])
    assert outcome.unpack(value, run_id=run) == 7


# -- what a call leaves on the disk


@pytest.mark.skipif(
    sys.platform != "linux", reason="a file with a hole in it is asked for as Linux has it"
)
def test_what_was_passed_on_to_the_log_is_not_kept_twice(tmp_path: Path) -> None:
    """A process that stays, or a call that prints without end, would take the disk twice; all of it is in the log."""
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    printed = Printed(str(tmp_path), CallLog(log))
    try:
        for letter in b"abcdefghijklmnopqrst":
            os.write(printed.child_end, bytes([letter]) * (1 << 20))
        assert printed.relay(printed.size(), b"", None)
        held = os.fstat(printed.child_end)
        assert held.st_size == 20 << 20
        assert held.st_blocks * 512 < 10 << 20
        assert os.pread(printed.child_end, 1 << 20, 19 << 20) == b"t" * (1 << 20)
    finally:
        printed.close()
        os.close(log)
    logged = (tmp_path / "log").read_bytes()
    assert logged == b"".join(bytes([each]) * (1 << 20) for each in b"abcdefghijklmnopqrst")


class Ends:
    """Ends its process as it is pickled."""

    def __reduce__(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_large_result_that_comes_to_nothing_takes_no_room(tmp_path: Path) -> None:
    """One that turns out not to be picklable, one whose process ends in the middle, and one that nobody wants any more."""

    def unpicklable() -> object:
        return [bytes(1 << 20), threading.Lock()]

    def ends() -> object:
        return [bytes(1 << 20), Ends()]

    def stopped(begun: Path) -> bytes:
        try:
            begun.touch()
            time.sleep(600)
        except KeyboardInterrupt:
            return bytes(1 << 20)
        return b"never"

    with warm(tmp_path) as run:
        for function, error in ((unpicklable, UnpicklableResult), (ends, JobKilled)):
            with pytest.raises(error):
                run.call(function)
        call = run.submit(stopped, tmp_path / "begun")
        await_file(tmp_path / "begun")
        call.stop()
        with pytest.raises(JobStopped):
            call.result(WAIT_S)
        assert [path.name for path in (run.job / "calls").iterdir()] == []
        assert run.end().how == "finished"


# -- its own end


class Stuck(Child):
    """A process that no signal reaches, as one that waits in a driver for a broken GPU."""

    def signal(self, number: int) -> None:
        return

    def ended(self) -> None:
        return None


def test_a_process_that_does_not_end_keeps_no_results_back(tmp_path: Path) -> None:
    """It is waited for, and then its call has been stopped."""
    book = CallBook(JobFolder(str(tmp_path)), bytes(32), "e" * 32)
    for number in (1, 2):
        entry = {"n": number, "size": 0, "blob": "", "function": "", "group": 0, "timeout_s": None}
        book.take(entry, b"")
    done, running = book.queue
    book.queue.clear()
    book.finish(done, {}, b"result")
    turns = iter(range(500))

    def turn() -> None:
        time.sleep(0.01)
        assert next(turns, None) is not None, "it is waited for without end"

    ours, theirs = socket.socketpair()
    with selectors.DefaultSelector() as selector, ours, theirs:
        children = Children(
            {"by": "cores", "slots": 1, "isolation": "fork", "grace_s": 0.1},
            0,
            str(tmp_path),
            selector=selector,
            book=book,
            work=lambda *_: 0,
        )
        out, err = (Printed(str(tmp_path), CallLog(log)) for log in (1, 2))
        stuck = Stuck(1, ours, (out, err), "", None, mark=EndMark())
        stuck.given.append(running)
        children._children[1] = stuck
        children.end_all(False, turn)
        stuck.close()
    assert book.ready == [done, running]
    assert b'"outcome": "stopped"' in running.sealed_result


def test_what_a_zygote_leaves_that_is_killed_ends_with_it(tmp_path: Path) -> None:
    """By its supervisor: a call that nobody hears of goes on for nobody."""
    with warm(tmp_path) as run:
        zygote = run.call(os.getppid)
        run.submit(sleeps, tmp_path / "pid")
        await_file(tmp_path / "pid")
        os.kill(zygote, signal.SIGKILL)
        assert run.session.follow(lambda *_: None).how == "killed"
        assert int((tmp_path / "pid").read_text()) not in processes.process_table()


def test_a_zygote_that_fails_leaves_what_there_is(tmp_path: Path) -> None:
    """Here it is sent what no client sends: the result of the run is there, and a call that has none says so in it."""
    with warm(tmp_path) as run:
        call = run.submit(sleeps, tmp_path / "pid")
        await_file(tmp_path / "pid")
        with socket.socket(socket.AF_UNIX) as line:
            files.in_folder(str(run.job), lambda: line.connect("zygote"))
            line.sendall(inbox.parcel(b"\0\0\0\1?"))
            end = run.session.follow(lambda *_: None)
        assert (end.how, end.code) == ("finished", 1)
        assert isinstance(run.left()[call.number], JobExited)
        assert "ValueError: no JSON" in run.log("stderr")
        assert int((tmp_path / "pid").read_text()) not in processes.process_table()
