"""What a function keeps in DAYFLY_CHECKPOINT_DIR is here while it runs, and there again for its next attempt."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime import manifest
from dayfly.runtime.agent import job_folder
from dayfly.runtime.checkpoints import PATIENCE, Checkpoints
from tests.test_outputs import Liar, file, whole
from tests.test_session import Runs, await_text, pickler, runs, server

__all__ = ["pickler", "runs", "server"]


def _steps(until: int, wait: bool) -> Callable[[], list[str]]:
    """Goes on from its last step, keeps each, and says so."""

    def function() -> list[str]:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        begun = sorted(path.name for path in folder.glob("step_*"))
        for step in range(len(begun), until):
            (folder / f"step_{step}").mkdir()
            (folder / f"step_{step}" / "credentials.bin").write_bytes(bytes([step]) * 300_000)
            (folder / "latest").unlink(missing_ok=True)
            (folder / "latest").symlink_to(f"step_{step}")
        print("ready", flush=True)
        while wait:
            time.sleep(0.01)
        (folder / "latest" / "credentials.bin").write_bytes(b"own")
        return begun

    return function


@pytest.mark.sshd
def test_checkpoints_come_home_while_the_function_runs_and_are_there_in_its_next_attempt(
    runs: Runs, tmp_path: Path
) -> None:
    """Only what has changed comes again; what the next attempt makes of them changes nothing that is shared."""
    kept = Checkpoints(tmp_path)
    with runs.session() as session:
        assert kept.restore(session) == ""
        session.start(runs.task(_steps(2, wait=True)))
        await_text(runs.job / "stdout.log", "ready")
        assert kept.sync(session)
        first = kept.folder / "step_1" / "credentials.bin"
        assert first.read_bytes() == b"\1" * 300_000
        assert (kept.folder / "latest").readlink() == Path("step_1")
        inode = first.stat().st_ino
        (runs.job / "checkpoints" / "step_0" / "credentials.bin").unlink()
        assert kept.sync(session)
        assert first.stat().st_ino == inode
        assert not (kept.folder / "step_0" / "credentials.bin").exists()
        session.stop()
        # Another attempt is another run, with a folder of its own.
        runs.job.rename(runs.job.with_name("former"))
        listing = kept.restore(session)
        session.start(replace(runs.task(_steps(3, wait=False)), checkpoints=listing))
        assert runs.outcome(session).value == ["step_0", "step_1"]
        assert kept.sync(session)
    assert (kept.folder / "latest" / "credentials.bin").read_bytes() == b"own"
    assert sorted(path.name for path in kept.folder.iterdir()) == [
        "latest",
        "step_0",
        "step_1",
        "step_2",
    ]
    kept.discard()
    assert list(tmp_path.glob("checkpoints*")) == []


def _writes_by_turns() -> Callable[[], None]:
    """By their names, the last is another one than by their times."""

    def function() -> None:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        for step in (8, 9, 10):
            (folder / f"step-{step}").mkdir()
            (folder / f"step-{step}" / "part").symlink_to("whole")
            (folder / f"step-{step}" / "whole").touch()
            (folder / f"step-{step}.pt").touch()
            for path in (folder / f"step-{step}", folder / f"step-{step}.pt"):
                os.utime(path, (10**9 + step, 10**9 + step))

    return function


def _times(folder: Path) -> dict[str, float]:
    return {path.name: path.stat().st_mtime - 10**9 for path in folder.glob("step-*")}


@pytest.mark.sshd
def test_the_newest_checkpoint_is_the_newest_in_the_next_attempt_too(
    runs: Runs, tmp_path: Path
) -> None:
    """Files and folders have the times that they had."""
    kept = Checkpoints(tmp_path)
    with runs.session() as session:
        session.start(runs.task(_writes_by_turns()))
        assert runs.outcome(session).end.how == "finished"
        assert kept.sync(session)
        runs.job.rename(runs.job.with_name("former"))
        session.start(replace(runs.task(lambda: None), checkpoints=kept.restore(session)))
        assert runs.outcome(session).end.how == "finished"
    wanted = {f"step-{step}{kind}": step for step in (8, 9, 10) for kind in ("", ".pt")}
    assert _times(kept.folder) == wanted
    assert _times(runs.job / "checkpoints") == wanted


class Machine(Liar):
    """A machine whose folder has these files, written at second 1; its own clock is at `now_s`.

    Attributes:
        taken: whether it can have the folder stand still.
        moving: files that are written to between one look and the next.
        renaming: whether another name is there at each look.
    """

    def __init__(self, **contents: bytes) -> None:
        super().__init__([])
        self.contents = {name.replace("__", "/"): data for name, data in contents.items()}
        self.others: list[Any] = []
        self.now_s, self.taken, self.dropped = 100, True, 0
        self.moving: tuple[str, ...] = ()
        self.renaming = False
        self._looks = 0

    def ask(self, head: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        assert (head["op"], head["of"]) == ("snapshot", "checkpoints")
        self.dropped += head["drop"]
        return {"taken": self.taken and not head["drop"], "now_ns": self.now_s * 10**9}

    def stream(self, head: dict[str, Any], body: bytes = b"") -> Iterator[Any]:
        assert head["of"] == ("checkpoints.taken" if self.taken else "checkpoints")
        if head["op"] == "outputs":
            self.entries = self._look()
            yield from super().stream(head, body)
            return
        for number, (path, offset, size) in enumerate(json.loads(body)):
            assert offset == 0
            yield whole(number, self.contents.get(path, b"")[:size])
        yield {"done": True}, b""

    def _look(self) -> list[Any]:
        self._looks += 1
        entries = list(self.others)
        for name, data in self.contents.items():
            seconds = self._looks if name in self.moving else 1
            entries.append([name, "file", len(data), 0o644, seconds * 10**9, ""])
        return entries + ([file(f"tmp{self._looks}", 0)] if self.renaming else [])


def _brought(kept: Checkpoints, machine: Machine, rounds: int = 1) -> dict[str, str]:
    """What is here after so many rounds, of which the last has brought all of it where it is but one."""
    done = [kept.sync(machine) for _ in range(rounds)]  # type: ignore[arg-type]
    assert not any(done) if rounds > 1 else all(done)
    return _here(kept)


def _here(kept: Checkpoints) -> dict[str, str]:
    def shown(path: Path) -> str:
        if path.is_symlink():
            return f"-> {path.readlink()}"
        return path.read_text() if path.is_file() else "/"

    found = sorted(kept.folder.rglob("*"))
    return {path.relative_to(kept.folder).as_posix(): shown(path) for path in found}


def test_a_folder_in_change_is_not_taken(tmp_path: Path) -> None:
    """What is here stays one state of it, which a swap that was cut short does not lose either."""
    kept = Checkpoints(tmp_path)
    kept.folder.mkdir()
    (kept.folder / "old").touch()
    machine = Machine(a=b"abc", b=b"xyz")
    machine.moving = ("b",)
    assert _brought(kept, machine, PATIENCE - 1) == {"old": ""}
    machine.moving = ()
    assert _brought(kept, machine) == {"a": "abc", "b": "xyz"}
    shutil.rmtree(kept.folder)
    kept.folder.mkdir()
    (kept.folder / "old").touch()
    kept.folder.rename(tmp_path / "checkpoints.former")
    calls = list[Any]()

    class Taking(Liar):
        def put(self, listing: bytes) -> str:
            calls.append(listing)
            return "digest"

        def transfer(self, act: Any) -> None:
            calls.append(act)

    assert kept.restore(Taking([])) == "digest"  # type: ignore[arg-type]
    assert b'"checkpoints/old"' in calls[-1]


def test_what_is_at_rest_comes_although_something_never_is(tmp_path: Path) -> None:
    """After some rounds; what is being written stays as it was, with all of its folder, and so does what leads to it."""
    kept = Checkpoints(tmp_path)
    machine = Machine(log=b"one", one__model=b"m1", one__state=b"s1")
    machine.others = [_folder("one"), _folder("two"), _link("latest", "one"), _link("next", "two")]
    machine.contents |= {"two/model": b"m2", "two/state": b"s2"}
    machine.moving = ("log", "two/state")
    assert _brought(kept, machine, PATIENCE - 1) == {}
    first = {"one": "/", "one/model": "m1", "one/state": "s1", "latest": "-> one"}
    assert _brought(kept, machine, PATIENCE) == first
    machine.moving = ()
    second = {"two": "/", "two/model": "m2", "two/state": "s2", "next": "-> two", "log": "one"}
    assert _brought(kept, machine) == first | second
    machine.contents |= {"log": b"one and two", "two/model": b"m3", "three": b"t"}
    machine.moving = ("log", "two/state")
    assert _brought(kept, machine, PATIENCE - 1) == first | second
    assert _brought(kept, machine, PATIENCE) == first | second | {"three": "t"}
    assert machine.dropped > 3 * PATIENCE
    assert (kept.folder / "two").stat().st_mtime == 10**9


def test_what_was_written_a_moment_ago_is_not_at_rest(tmp_path: Path) -> None:
    """A folder of files is written one after the other."""
    kept = Checkpoints(tmp_path)
    machine = Machine(log=b"one", model=b"m1")
    machine.moving, machine.now_s = ("log",), 2
    assert _brought(kept, machine, PATIENCE + 1) == {}
    machine.now_s = 100
    assert _brought(kept, machine, 2) == {"model": "m1"}


def test_names_that_are_never_at_rest_are_no_state(tmp_path: Path) -> None:
    """As a machine may have it that cannot have its folder stand still; whoever waits is told why."""
    kept, said = Checkpoints(tmp_path), list[str]()
    machine = Machine(a=b"abc")
    machine.renaming, machine.taken = True, False
    assert _brought(kept, machine, PATIENCE) == {}
    with kept.kept(machine, said.append):  # type: ignore[arg-type]
        pass
    with kept.kept(machine, said.append):  # type: ignore[arg-type]
        machine.renaming, machine.moving, machine.taken = False, ("b\n",), True
        machine.contents["b\n"] = b"x"
    assert "made, renamed or deleted" in said[0]
    assert "b\\n, written to whenever it is looked at, stays as it was here" in said[1]
    assert _here(kept) == {"a": "abc"}
    with kept.kept(machine, said.append):  # type: ignore[arg-type]
        machine.moving = ()
    assert _here(kept) == {"a": "abc", "b\n": "x"}
    assert len(said) == 2


def _restless() -> Callable[[], None]:
    """Logs without a pause, beside what it keeps as one should."""

    def function() -> None:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        (folder / "aside").write_bytes(b"1" * 300_000)
        (folder / "aside").rename(folder / "step-1.pt")
        os.utime(folder / "step-1.pt", (10**9, 10**9))
        print("ready", flush=True)
        with (folder / "log.txt").open("w", buffering=1) as log:
            while True:
                log.write("another line\n")
                time.sleep(0.0005)

    return function


@pytest.mark.sshd
def test_checkpoints_come_home_while_a_log_is_written_beside_them(
    runs: Runs, tmp_path: Path
) -> None:
    """And nothing of that is left on the machine."""
    kept = Checkpoints(tmp_path)
    with runs.session() as session:
        session.start(runs.task(_restless()))
        await_text(runs.job / "stdout.log", "ready")
        for _ in range(PATIENCE):
            kept.sync(session)
        session.stop()
    assert (kept.folder / "step-1.pt").read_bytes() == b"1" * 300_000
    assert not (runs.job / "checkpoints.taken").exists()


def _folder(path: str) -> list[Any]:
    return [path, "folder", 0, 0o755, 10**18, ""]


def _link(path: str, target: str) -> list[Any]:
    return [path, "link", len(target), 0o777, 10**18, target]


def test_a_path_may_become_something_else_from_one_state_to_the_next(tmp_path: Path) -> None:
    """A file a folder, and a file again; what a link has led to is not what is written in its place."""
    kept, machine = Checkpoints(tmp_path), Machine(x=b"abc")
    assert _brought(kept, machine) == {"x": "abc"}
    machine.others, machine.contents = [_folder("x")], {"x/y": b"def"}
    assert _brought(kept, machine) == {"x": "/", "x/y": "def"}
    machine.others, machine.contents = [], {"x": b"ghi"}
    assert _brought(kept, machine) == {"x": "ghi"}
    machine.others = [_link("latest", "step-1"), _folder("step-1")]
    machine.contents = {"step-1/state": b"one"}
    linked = {"latest": "-> step-1", "step-1": "/", "step-1/state": "one"}
    assert _brought(kept, machine) == linked
    machine.others = [_folder("latest"), _folder("step-1")]
    machine.contents = {"latest/state": b"two", "step-1/state": b"one"}
    assert _brought(kept, machine) == linked | {"latest": "/", "latest/state": "two"}
    machine.others = [_link("latest", "step-1"), _folder("step-1")]
    machine.contents = {"step-1/state": b"one"}
    assert _brought(kept, machine) == linked


def test_a_disk_without_second_names_has_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exFAT stick or a network home is."""

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    kept, machine = Checkpoints(tmp_path), Machine(x=b"abc")
    assert _brought(kept, machine) == {"x": "abc"}
    machine.contents["y"] = b"def"
    assert _brought(kept, machine) == {"x": "abc", "y": "def"}


def test_the_list_of_what_has_come_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what is here brought again for that."""
    monkeypatch.setattr(manifest, "_SLACK", 10)
    kept, machine = Checkpoints(tmp_path), Machine(still=b"abc")
    for size in range(50):
        machine.contents["log"] = b"x" * size
        assert _brought(kept, machine) == {"still": "abc", "log": "x" * size}
    lines = (tmp_path / "checkpoints.jsonl").read_text().splitlines()
    assert len(lines) < 2 * 2 + 10 + 2
    assert [json.loads(line)["path"] for line in lines].count("still") == 1


def test_what_has_no_room_here_is_named_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are no outputs."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(OSError, match="has left in DAYFLY_CHECKPOINT_DIR is "):
        Checkpoints(tmp_path).sync(Machine(a=b"abc"))  # type: ignore[arg-type]


def test_checkpoints_come_once_more_at_the_end_and_trouble_is_told_once(tmp_path: Path) -> None:
    """And is no reason to end the job."""
    said = list[str]()

    class Full(Liar):
        def transfer(self, act: Any) -> None:
            raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path).kept(Full([]), said.append):  # type: ignore[arg-type]
        pass
    assert len(said) == 1
    assert "No space left" in said[0]
    with Checkpoints(tmp_path).kept(Full([]), said.append, lambda: False):  # type: ignore[arg-type]
        pass
    assert len(said) == 1
    with Checkpoints(tmp_path).kept(Machine(a=b"abc"), said.append):  # type: ignore[arg-type]
        assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "checkpoints" / "a").read_bytes() == b"abc"


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("turns_into", "how"),
    [(None, "deadline"), (SystemExit, "finished"), (RuntimeError, "finished")],
    ids=["interrupt", "exit", "error"],
)
def test_a_callable_with_a_checkpoint_is_asked_for_it_when_its_time_is_over(
    runs: Runs, tmp_path: Path, turns_into: type[BaseException] | None, how: str
) -> None:
    """In its own process, after its call was interrupted, whatever it turns that into; trouble in that changes no end."""

    class Trainer:
        def __init__(self) -> None:
            self.step = 0

        def __call__(self) -> None:
            print("ready", flush=True)
            try:
                while True:
                    self.step += 1
                    time.sleep(0.001)
            except KeyboardInterrupt:
                if turns_into is None:
                    raise
                raise turns_into(1) from None

        def checkpoint(self) -> None:
            Path(os.environ["DAYFLY_CHECKPOINT_DIR"], "step").write_text(str(self.step))
            raise RuntimeError("told, and no more")

    with runs.session() as session:
        session.start(runs.task(Trainer()))
        await_text(runs.job / "stdout.log", "ready")
        job_folder.request_stop(job_folder.JobFolder(str(runs.job)), "deadline")
        outcome = runs.outcome(session)
        assert outcome.end.how == how
        assert b"told, and no more" in outcome.stderr
        assert Checkpoints(tmp_path).sync(session)
    assert int((tmp_path / "checkpoints" / "step").read_text()) >= 1
