"""What a function keeps in DAYFLY_CHECKPOINT_DIR is here while it runs, and there again for its next attempt."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime.agent import job_folder
from dayfly.runtime.checkpoints import Checkpoints
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


class Changing(Liar):
    """A machine whose folder is another one each time that it is looked at."""

    def stream(self, head: dict[str, Any], body: bytes = b"") -> Any:
        if head["op"] == "outputs":
            assert head["of"] == "checkpoints"
            self.entries = [file("a", 3), file("b", len(self.entries))]
        return super().stream(head, body)


def test_a_folder_in_change_is_not_taken(tmp_path: Path) -> None:
    """What is here stays one state of it, which a swap that was cut short does not lose either."""
    kept = Checkpoints(tmp_path)
    kept.folder.mkdir()
    (kept.folder / "old").touch()
    changing = Changing([file("a"), file("b"), file("c")], whole(0, b"abc"), whole(1, b"xyz"))
    assert not kept.sync(changing)  # type: ignore[arg-type]
    assert [path.name for path in kept.folder.iterdir()] == ["old"]
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


def _folder(path: str) -> list[Any]:
    return [path, "folder", 0, 0o755, 10**18, ""]


def _link(path: str, target: str) -> list[Any]:
    return [path, "link", len(target), 0o777, 10**18, target]


def _brought(kept: Checkpoints, entries: list[Any], *contents: bytes) -> dict[str, str]:
    """What is here once a machine has had these entries, and sent these files."""
    machine = Liar(entries, *(whole(number, data) for number, data in enumerate(contents)))
    assert kept.sync(machine)  # type: ignore[arg-type]
    found = sorted(kept.folder.rglob("*"))
    return {
        path.relative_to(kept.folder).as_posix(): f"-> {path.readlink()}"
        if path.is_symlink()
        else path.read_text()
        if path.is_file()
        else "/"
        for path in found
    }


def test_a_path_may_become_something_else_from_one_state_to_the_next(tmp_path: Path) -> None:
    """A file a folder, and a file again; what a link has led to is not what is written in its place."""
    kept = Checkpoints(tmp_path)
    assert _brought(kept, [file("x")], b"abc") == {"x": "abc"}
    assert _brought(kept, [_folder("x"), file("x/y")], b"def") == {"x": "/", "x/y": "def"}
    assert _brought(kept, [file("x")], b"ghi") == {"x": "ghi"}
    state = [_folder("step-1"), file("step-1/state")]
    linked = _brought(kept, [_link("latest", "step-1"), *state], b"one")
    assert linked == {"latest": "-> step-1", "step-1": "/", "step-1/state": "one"}
    real = [_folder("latest"), file("latest/state"), *state]
    own = {"latest": "/", "latest/state": "two", "step-1": "/", "step-1/state": "one"}
    assert _brought(kept, real, b"two") == own
    assert _brought(kept, [_link("latest", "step-1"), *state]) == linked


def test_a_disk_without_second_names_has_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exFAT stick or a network home is."""

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    kept = Checkpoints(tmp_path)
    assert _brought(kept, [file("x")], b"abc") == {"x": "abc"}
    assert _brought(kept, [file("x"), file("y")], b"def") == {"x": "abc", "y": "def"}


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
    with Checkpoints(tmp_path).kept(Liar([file("a")], whole(0, b"abc")), said.append):  # type: ignore[arg-type]
        assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "checkpoints" / "a").read_bytes() == b"abc"


@pytest.mark.sshd
def test_a_callable_with_a_checkpoint_is_asked_for_it_when_its_time_is_over(
    runs: Runs, tmp_path: Path
) -> None:
    """In its own process, after its call was interrupted; trouble in that changes no end."""

    class Trainer:
        def __init__(self) -> None:
            self.step = 0

        def __call__(self) -> None:
            print("ready", flush=True)
            while True:
                self.step += 1
                time.sleep(0.001)

        def checkpoint(self) -> None:
            Path(os.environ["DAYFLY_CHECKPOINT_DIR"], "step").write_text(str(self.step))
            raise RuntimeError("told, and no more")

    with runs.session() as session:
        session.start(runs.task(Trainer()))
        await_text(runs.job / "stdout.log", "ready")
        job_folder.request_stop(job_folder.JobFolder(str(runs.job)), "deadline")
        outcome = runs.outcome(session)
        assert outcome.end.how == "deadline"
        assert b"told, and no more" in outcome.stderr
        assert Checkpoints(tmp_path).sync(session)
    assert int((tmp_path / "checkpoints" / "step").read_text()) >= 1
