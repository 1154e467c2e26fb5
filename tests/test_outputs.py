"""What a function leaves in DAYFLY_OUTPUT_DIR comes home: over a real SSH server, and from a machine that lies."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import Forged, JobStopped, SpecError
from dayfly.runtime import outputs
from dayfly.runtime.agent import job_folder
from dayfly.runtime.homecoming import Homecoming
from dayfly.runtime.session import Session
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace
from tests.proxy import proxy
from tests.runs import opened
from tests.test_session import Logs, Runs, await_text, pickler, runs, server

__all__ = ["pickler", "runs", "server"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "outputs"


def homecoming(folder: Path, **how: Any) -> Homecoming:
    folder.parent.mkdir(exist_ok=True)
    return Homecoming(folder, folder.parent / "outputs.jsonl", **how)


def _leaves_a_tree() -> Callable[[], None]:
    def function() -> None:
        root = Path(os.environ["DAYFLY_OUTPUT_DIR"])
        (root / "steps" / "9").mkdir(parents=True)
        (root / "nothing").mkdir()
        (root / "steps" / "9" / "weights.bin").write_bytes(bytes(range(256)) * 4000)
        (root / "empty").touch()
        (root / "tool.sh").write_text("#!/bin/sh\n")
        (root / "tool.sh").chmod(0o755)
        (root / "latest").symlink_to("steps/9")
        (root / "keys").symlink_to("/etc")
        (root / "over\nthere").write_text("odd")
        os.mkfifo(root / "pipe")
        os.utime(root / "empty", ns=(10**18, 10**18))
        Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_text("no text")

    return function


@pytest.mark.sshd
@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_whole_tree_comes_home(runs: Runs, folder: Path) -> None:
    """Folders, links within it, modes, times and odd names; a pipe and a link out of it stay there, with a word."""
    arriving = homecoming(folder)
    with runs.session() as session:
        session.start(runs.task(_leaves_a_tree()))
        session.follow(Logs())
        arriving.run(session)
    weights = folder / "steps" / "9" / "weights.bin"
    assert weights.read_bytes() == bytes(range(256)) * 4000
    assert (folder / "nothing").is_dir()
    assert (folder / "latest").readlink() == Path("steps/9")
    assert (folder / "tool.sh").stat().st_mode & stat.S_IXUSR
    assert not weights.stat().st_mode & stat.S_IXUSR
    assert (folder / "empty").stat().st_mtime_ns == 10**18
    assert (folder / "over\nthere").read_text() == "odd"
    assert (folder / "\udcff").read_bytes() == b"no text"
    assert sorted(arriving.left_out) == ["keys", "pipe"]
    assert not os.path.lexists(folder / "keys")
    told = arriving.summary()
    assert (told["complete"], told["count"], told["bytes"]) == (True, 5, 1024000 + 10 + 3 + 7)
    assert told["files"][2]["path"] == "steps/9/weights.bin"
    assert told["files"][2]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert json.dumps(told).isascii()
    assert not list(folder.parent.glob(".*.part"))


def _leaves_large_and_many() -> Callable[[], None]:
    def function() -> None:
        root = Path(os.environ["DAYFLY_OUTPUT_DIR"])
        (root / "large").write_bytes(bytes(range(251)) * 12_000)
        for number in range(1200):
            (root / f"{number:04}").write_text(str(number) * 100)

    return function


@pytest.mark.sshd
def test_a_transfer_goes_on_where_its_connection_broke(runs: Runs, folder: Path) -> None:
    """In the midst of a file that is larger than any connection lives for, and between thousands of small ones."""
    arriving = homecoming(folder)
    with (
        proxy(runs.server.machine.port) as between,
        Session(runs.server.through(between.port), runs.server.keys) as session,
    ):
        session.start(runs.task(_leaves_large_and_many()))
        session.follow(Logs())
        between.cut_after = 1_000_000
        arriving.run(session)
    assert between.cuts >= 3
    assert (folder / "large").read_bytes() == bytes(range(251)) * 12_000
    assert all((folder / f"{n:04}").read_text() == str(n) * 100 for n in range(1200))
    assert (arriving.summary()["count"], arriving.left_out) == (1201, {})


@pytest.mark.sshd
def test_another_process_goes_on_where_one_was_ended(runs: Runs, folder: Path) -> None:
    """What is whole does not come again, and what is half is completed; a half that is no beginning of it comes anew."""
    seen = list[int]()

    def end() -> None:
        if seen and seen[-1] > 1_000_000:
            raise JobStopped("ended")

    with runs.session() as session:
        session.start(runs.task(_leaves_large_and_many()))
        session.follow(Logs())
        first = homecoming(folder, progress=lambda have, _: seen.append(have), aborted=end)
        with pytest.raises(JobStopped):
            first.run(session)
        assert not first.summary()["complete"]
        (part,) = folder.parent.glob(".*.part")
        assert 0 < part.stat().st_size < 3_012_000
        changed = (folder / "0007").stat()
        again = list[int]()
        homecoming(folder, progress=lambda have, _: again.append(have)).run(session)
        assert again[0] > seen[-1] - (1 << 20) > 0
        assert (folder / "0007").stat().st_ino == changed.st_ino
        assert (folder / "large").read_bytes() == bytes(range(251)) * 12_000
        (folder / "large").unlink()
        part.write_bytes(b"x" * 1000)
        homecoming(folder).run(session)
    assert (folder / "large").read_bytes() == bytes(range(251)) * 12_000


@pytest.mark.sshd
@pytest.mark.parametrize("how", ["stopped", "deadline", "killed"])
def test_what_a_function_had_written_before_it_was_ended_comes_home(
    runs: Runs, folder: Path, how: str
) -> None:
    """By a stop, by the deadline, or by a signal."""

    def function() -> None:
        import signal
        import time

        Path(os.environ["DAYFLY_OUTPUT_DIR"], "half.txt").write_text("half")
        print("ready", flush=True)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)

    arriving = homecoming(folder)
    with runs.session() as session:
        session.start(runs.task(function))
        await_text(runs.job / "stdout.log", "ready")
        if how != "killed":
            # As a stop and the machine's own deadline do.
            job_folder.request_stop(job_folder.JobFolder(str(runs.job)), how)
        assert session.follow(Logs()).how == how
        arriving.run(session)
    assert (folder / "half.txt").read_text() == "half"


@pytest.mark.sshd
def test_a_job_whose_folder_is_gone_has_left_nothing(runs: Runs, folder: Path) -> None:
    """And nothing is made here for it."""
    arriving = homecoming(folder)
    with runs.session() as session:
        session.start(runs.task(lambda: shutil.rmtree(os.environ["DAYFLY_OUTPUT_DIR"])))
        session.follow(Logs())
        arriving.run(session)
    assert arriving.empty
    assert not folder.exists()


@pytest.mark.sshd
def test_what_has_no_room_here_is_refused_before_it_comes(
    runs: Runs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both sizes; it stays on the machine."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1, 1, (256 << 20) + 1000))
    with runs.session() as session:
        session.start(runs.task(_leaves_large_and_many()))
        session.follow(Logs())
        with pytest.raises(OSError, match=r"is 3\.4 MB, of which 3\.4 MB .* 1\.0 KB can be had"):
            homecoming(folder).run(session)
    assert list(folder.iterdir()) == []
    assert (runs.job / "outputs" / "large").exists()


# -- a machine that is not what it seems


class Liar:
    """A machine that lists and sends what it likes; `transfer` is a session's."""

    def __init__(self, entries: list[Any], *messages: tuple[dict[str, Any], bytes]) -> None:
        self.entries, self.messages = entries, messages
        self.asked: list[Any] = []

    def transfer(self, act: Any) -> None:
        act(self, lambda: None)

    def stream(self, head: dict[str, Any], body: bytes = b"") -> Iterator[Any]:
        if head["op"] == "outputs":
            yield {"entries": len(self.entries)}, json.dumps(self.entries).encode()
        else:
            self.asked += json.loads(body)
            yield from self.messages
        yield {"done": True}, b""


def file(path: str, size: int = 3) -> list[Any]:
    return [path, "file", size, 0o644, 1, ""]


def whole(number: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    digest = hashlib.sha256(data).hexdigest()
    return {"file": number, "offset": 0, "digest": digest, "size": len(data)}, data


@pytest.mark.parametrize(
    "messages",
    [
        [({"file": 0, "offset": 0}, b"more than three")],
        [({"file": 0, "offset": 2}, b"gap")],
        [({"file": 1, "offset": 0}, b"abc")],
        [({"file": 0, "offset": 0}, b"abc"), ({"file": 0, "offset": 0}, b"abc")],
        [whole(0, b"abc"), whole(1, b"abc")],
        [],
    ],
    ids=["larger", "gap", "another", "repeat", "unasked", "nothing"],
)
def test_what_was_not_asked_for_is_not_taken(folder: Path, messages: list[Any]) -> None:
    """Nor is what it would have become."""
    with pytest.raises(Forged):
        homecoming(folder).run(Liar([file("a")], *messages))  # type: ignore[arg-type]
    assert not (folder / "a").is_file() or (folder / "a").read_bytes() == b"abc"


def test_nothing_is_written_outside_the_folder(folder: Path) -> None:
    """Whatever the list says; a file below what is told as a link is kept, and the link is not made."""
    entries = [
        file("../up"),
        file("/tmp/up"),
        ["out", "link", 0, 0o777, 1, "../.."],
        ["in", "link", 0, 0o777, 1, "."],
        file("in/a"),
    ]
    liar = Liar(entries, whole(0, b"abc"))
    arriving = homecoming(folder)
    arriving.run(liar)  # type: ignore[arg-type]
    assert [asked[0] for asked in liar.asked] == ["in/a"]
    assert (folder / "in" / "a").read_bytes() == b"abc"
    assert sorted(arriving.left_out) == ["../up", "/tmp/up", "in", "out"]
    assert sorted(folder.parent.iterdir()) == [folder, folder.parent / "outputs.jsonl"]


def test_a_file_that_is_never_what_it_says_is_left_out(folder: Path) -> None:
    """And the next one comes all the same."""
    wrong = ({"file": 0, "offset": 0, "digest": "0" * 64, "size": 3}, b"abc")
    gone = ({"file": 1, "why": "No such file or directory"}, b"")
    liar = Liar([file("a"), file("b"), file("c")], wrong, gone, whole(2, b"abc"))
    arriving = homecoming(folder)
    with pytest.raises(Forged, match="not asked for"):
        # It is asked for once more, and this machine then sends three files for one.
        arriving.run(liar)  # type: ignore[arg-type]
    assert (folder / "c").read_bytes() == b"abc"
    assert "No such file" in arriving.left_out["b"]
    assert arriving.summary()["complete"] is False


def test_two_names_that_are_one_on_this_computer_do_not_overwrite_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Mac's disk, where the second is found to be there."""
    folder.mkdir(parents=True)
    (folder / "README").hardlink_to(_existing(folder.parent / "readme"))
    liar = Liar([file("Readme"), file("README")], whole(0, b"abc"), whole(1, b"xyz"))
    arriving = homecoming(folder)
    arriving.run(liar)  # type: ignore[arg-type]
    assert "takes its name for Readme" in arriving.left_out["README"]
    assert (folder / "Readme").read_bytes() == b"abc"


def _existing(path: Path) -> Path:
    path.write_text("here")
    return path


def test_an_endless_list_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do instead."""
    monkeypatch.setattr("dayfly.runtime.homecoming._ENTRIES_MOST", 2)
    with pytest.raises(OSError, match="pack them into an archive"):
        homecoming(folder).run(Liar([file("a"), file("b"), file("c")]))  # type: ignore[arg-type]


# -- where they are, and whether


def test_outputs_are_in_the_run_s_directory_or_in_a_folder_of_the_run(
    workspace: Workspace, tmp_path: Path
) -> None:
    """`outputs=` is shared by many runs, which do not meet in it."""
    history = journal.read(workspace.directory(opened(workspace)))
    assert outputs.folder_of(history) == history.directory / "outputs"
    history.intent["spec"]["outputs"] = str(tmp_path)
    assert outputs.folder_of(history) == tmp_path / history.id[:12]


@pytest.mark.parametrize(
    ("event", "fields", "home"),
    [
        ("result_fetched", {}, False),
        ("outputs", {"complete": False}, False),
        ("outputs", {"complete": True}, True),
        ("held", {}, True),
        ("acknowledged", {}, True),
    ],
)
def test_outputs_are_home_when_all_of_them_are(
    workspace: Workspace, event: str, fields: dict[str, Any], home: bool
) -> None:
    """By the journal, so that whoever comes next knows whether to go on."""
    directory = workspace.directory(opened(workspace))
    journal.append(directory, event, **fields)
    assert outputs.are_home(journal.read(directory)) is home
    # Another computer makes its directory of this one's journal, and has none of the files.
    journal.append(directory, "brought", home="there")
    assert not outputs.are_home(journal.read(directory))
    journal.append(directory, event, **fields)
    assert outputs.are_home(journal.read(directory)) is home


def test_a_socket_is_special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the agent tells it."""
    from dayfly.runtime.agent.output_folder import OutputFolder

    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # A socket's path must be short.
        listener.bind("s")
        entries = list(OutputFolder(str(tmp_path)).entries())
    assert [entry[:2] for entry in entries] == [["s", "special"]]
    with pytest.raises(ValueError, match="No such device"):
        list(OutputFolder(str(tmp_path)).read("s", 0, 1))


def test_a_folder_that_cannot_be_written_is_refused_before_there_is_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that is yet to be made, the nearest that is there counts."""
    outputs.check_folder(None)
    outputs.check_folder(str(tmp_path / "a" / "b"))
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)
    with pytest.raises(SpecError, match=re.escape(f"nothing can be written into {tmp_path};")):
        outputs.check_folder(str(tmp_path / "a" / "b"))
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="file"):
        outputs.check_folder(str(tmp_path / "file" / "b"))
