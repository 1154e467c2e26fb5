"""Checkpoints that the machine itself keeps in a bucket: through a real session, into a real S3 server on loopback."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dayfly.errors import DataFailed, SpecError
from dayfly.infra.spec import Spec
from dayfly.runtime import checkpoint_bucket
from dayfly.runtime.agent import bucket_process, bucket_state, job_folder
from dayfly.runtime.agent.bucket import PATIENCE, Bucket, BucketError
from dayfly.runtime.agent.checkpoint_folder import Changing, CheckpointFolder
from dayfly.runtime.environment import Recipe
from dayfly.runtime.records import Restored, Task
from dayfly.runtime.session import Session
from tests.emulators.gcs import gcs
from tests.emulators.s3 import KEY, S3, s3
from tests.sshd import sshd
from tests.test_session import Runs, await_text, pickler, runs, server

__all__ = ["pickler", "runs", "server"]
WAIT_S = 60.0
EVERY_S = 0.2


# -- what may be asked for


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (3, "must be the URL"),
        ("", "must be the URL"),
        ("./here", "is no URL"),
        ("s33://bucket/x", "did you mean 's3'"),
        ("https://host/x", "nothing is kept behind 'https'"),
        ("hf://datasets/a/b", "nothing is kept behind 'hf'"),
        ("s3://bucket", "a bucket and a folder in it"),
        ("s3:///folder", "a bucket and a folder in it"),
        ("s3://bucket/a/../b", '".."'),
        ("s3://bucket/a//b", '"//"'),
        ("s3://bucket/x?X-Amz-Signature=hush", "credentials go by secrets="),
        ("s3://key:hush@bucket/x", "credentials go by secrets="),
        ("s3://[bucket/x", "is no URL"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_written(url: Any, words: str) -> None:
    """With what to write instead, and without what may be a credential."""
    with pytest.raises(SpecError) as refused:
        Spec(checkpoints=url)
    assert words in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_url_is_kept_in_one_spelling() -> None:
    """So that the next run finds what this one has left."""
    assert Spec(checkpoints="S3://Bucket/a/b/").checkpoints == "s3://Bucket/a/b"
    assert Spec(checkpoints=None).checkpoints is None
    azure = "abfs://container@account.dfs.core.windows.net/run"
    assert Spec(checkpoints=azure).checkpoints == azure


@pytest.mark.parametrize(
    ("url", "secrets", "enough"),
    [
        ("s3://b/x", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], True),
        ("s3://b/x", ["AWS_ACCESS_KEY_ID"], False),
        ("s3://b/x", ["FSSPEC_S3_KEY", "FSSPEC_S3_SECRET"], True),
        ("s3://b/x", ["FSSPEC_S3FOO", "WANDB_API_KEY"], False),
        ("gs://b/x", ["GOOGLE_APPLICATION_CREDENTIALS"], False),
        ("gs://b/x", ["FSSPEC_GS"], True),
        ("gcs://b/x", ["FSSPEC_GCS"], True),
        ("az://b/x", ["AZURE_STORAGE_CONNECTION_STRING"], True),
        ("abfs://b/x", ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_SAS_TOKEN"], True),
        ("az://b/x", ["AZURE_STORAGE_ACCOUNT_NAME"], False),
    ],
)
def test_a_bucket_without_credentials_is_refused_before_anything_is_spent(
    url: str, secrets: list[str], enough: bool
) -> None:
    """A machine that is this computer has what its user has; another one has what it is given."""
    rented = Spec(provider="lambda", checkpoints=url, secrets=secrets)
    if enough:
        checkpoint_bucket.check(rented)
    else:
        with pytest.raises(SpecError, match=r"no credentials for it; name the variables"):
            checkpoint_bucket.check(rented)
    checkpoint_bucket.check(replace(rented, provider=("local",), secrets=()))


def test_the_machine_gets_what_reaches_the_bucket() -> None:
    """In its environment, as for Data."""
    recipe = Recipe("3.11", "", (), "a list (0 packages)")
    made = checkpoint_bucket.with_backend(recipe, "gs://bucket/run")
    assert made.requirements == "gcsfs\n"
    assert made.source.endswith("and gcsfs for its checkpoints")


# -- the pieces


def _state(**other: Any) -> dict[str, Any]:
    files = [["a/b", "name", "0" * 64, 3, False, 10**18]]
    folders = [["a", 10**18]]
    return {"format": 1, "id": "x", "files": files, "folders": folders, "links": [], **other}


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        _state(format=2),
        _state(files=[["../b", "name", "0" * 64, 3, False, 1]]),
        _state(files=[["/b", "name", "0" * 64, 3, False, 1]]),
        _state(files=[["b", "../name", "0" * 64, 3, False, 1]]),
        _state(files=[["b", "name", "0" * 63, 3, False, 1]]),
        _state(files=[["b", "name", "0" * 64, 3, False, "now"]]),
        _state(files=[["b", "name"]]),
        _state(folders=[["a/../..", 1]]),
        _state(folders=[["a", None]]),
        _state(links=[["latest", "/etc"]]),
        _state(links=[["latest", "../../x"]]),
    ],
)
def test_a_list_that_is_not_ours_or_leads_elsewhere_is_refused(told: Any) -> None:
    """Whoever may write into the bucket may not write beside the folder."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        bucket_state.check_state(told)
    assert bucket_state.check_state(_state())["files"]


def test_a_folder_tells_what_can_be_kept(tmp_path: Path) -> None:
    """No pipe, no link out of it; a digest is taken again as long as the file is new."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("one")
    (tmp_path / "latest").symlink_to("deep/file")
    (tmp_path / "away").symlink_to("/etc")
    (tmp_path / "up").symlink_to("../x")
    os.mkfifo(tmp_path / "pipe")
    folder = CheckpointFolder(str(tmp_path))
    entries = {entry[0]: entry for entry in folder.entries()}
    assert sorted(entries) == ["deep", "deep/file", "latest"]
    first = folder.digest(entries["deep/file"])
    (tmp_path / "deep" / "file").write_text("two")
    assert folder.digest(entries["deep/file"]) != first
    os.utime(tmp_path / "deep" / "file", (10**9, 10**9))
    (settled,) = [entry for entry in folder.entries() if entry[0] == "deep/file"]
    known = folder.digest(settled)
    (tmp_path / "deep" / "file").unlink()
    assert folder.digest(settled) == known
    with pytest.raises(Changing):
        folder.digest_now("deep/file")


class Busy(CheckpointFolder):
    """One into which the next step is written whenever one of its files is read: aside, renamed, the former one deleted."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._at, self.step = path, 0
        self.write()

    def write(self) -> None:
        self.step += 1
        (self._at / "aside").write_text(f"step {self.step}")
        (self._at / "aside").rename(self._at / f"step-{self.step}")
        (self._at / "aside").symlink_to(f"step-{self.step}")
        (self._at / "aside").rename(self._at / "latest")
        (self._at / f"step-{self.step - 1}").unlink(missing_ok=True)

    def digest_now(self, path: str) -> str:
        self.write()
        return super().digest_now(path)


def test_a_folder_that_is_never_at_rest_gives_one_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names are those of one moment; where it cannot be had stand still, the former state stays."""
    place = tmp_path / "checkpoints"
    (place / "empty").mkdir(parents=True)
    place.joinpath("empty").chmod(0o755)
    bucket = Bucket(f"memory://{tmp_path.name}/run", "r" * 32)
    bucket.claim()
    bucket.load()
    busy = Busy(place)
    assert bucket.save(busy)
    assert busy.step > 1
    assert not (tmp_path / "checkpoints.kept").exists()
    assert [entry[0] for entry in bucket.state["files"]] == ["step-1"]
    assert bucket.state["links"] == [["latest", "step-1"]]
    assert bucket.restore(str(tmp_path / "came"), lambda *_: None) == (1, 6)
    assert (tmp_path / "came" / "latest").read_text() == "step 1"

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as without:
        without.setattr(os, "link", refused)
        assert not bucket.save(busy)
        assert [entry[0] for entry in bucket.state["files"]] == ["step-1"]
        assert bucket.save(CheckpointFolder(str(place)))
    assert [entry[0] for entry in bucket.state["files"]] == [f"step-{busy.step}"]
    (place / "empty" / "more").touch()
    assert bucket.save(CheckpointFolder(str(place)))
    Bucket(f"memory://{tmp_path.name}/run", "s" * 32).claim()
    # What is there already is not looked at again.
    assert bucket.save(CheckpointFolder(str(place)))
    (place / "another").touch()
    with pytest.raises(BucketError, match="run ssss"):
        bucket.save(CheckpointFolder(str(place)))


class Growing(CheckpointFolder):
    """One with a log that is written to whenever it is read."""

    def digest_now(self, path: str) -> str:
        if path == "log":
            with Path(self.place(path)).open("a") as log:
                log.write("more\n")
        return super().digest_now(path)


def growing(place: Path) -> Growing:
    (place / "one").mkdir(parents=True)
    (place / "one" / "model").write_text("m1")
    os.utime(place / "one" / "model", (10**9, 10**9))
    (place / "log").write_text("first\n")
    (place / "latest").symlink_to("one")
    (place / "current").symlink_to("log")
    return Growing(str(place))


def test_what_is_at_rest_is_kept_although_something_never_is(tmp_path: Path) -> None:
    """After some rounds; what is being written stays as it was, and so do what leads to it and what is quite new."""
    folder = growing(tmp_path / "checkpoints")
    still = CheckpointFolder(str(tmp_path / "checkpoints"))
    bucket = Bucket(f"memory://{tmp_path.name}/run", "r" * 32)
    bucket.claim()
    bucket.load()
    for _ in range(PATIENCE - 1):
        assert not bucket.save(folder)
        assert (bucket.state, bucket.held) == ({}, set())
    assert not bucket.save(folder)
    assert bucket.held == {"log", "current"}
    assert [entry[0] for entry in bucket.state["files"]] == ["one/model"]
    assert bucket.state["links"] == [["latest", "one"]]
    text = (tmp_path / "checkpoints" / "log").read_text()
    assert bucket.save(still)
    assert bucket.held == set()
    (tmp_path / "checkpoints" / "two").write_text("2")
    # As new as it can be, however long the rounds take.
    os.utime(tmp_path / "checkpoints" / "two", (2 * 10**9, 2 * 10**9))
    for _ in range(PATIENCE):
        assert not bucket.save(folder)
    assert bucket.held == {"log", "current", "two"}
    assert bucket._present == {entry[1] for entry in bucket.state["files"]}
    assert bucket.restore(str(tmp_path / "came"), lambda *_: None) == (2, 2 + len(text))
    assert (tmp_path / "came" / "current").read_text() == text
    assert bucket.save(still)
    assert len(bucket.state["files"]) == 3


def test_a_function_is_told_once_what_is_not_kept(tmp_path: Path) -> None:
    """On its own log, with what to do instead."""
    url = f"memory://{tmp_path.name}/run"
    Bucket(url, "r" * 32).claim()
    folder = growing(tmp_path / "checkpoints")
    (tmp_path / "stderr.log").touch()
    order = {"url": url, "run_id": "r" * 32, "secrets": {}, "every_s": 0.0}
    sync = bucket_process.BucketSync(job_folder.JobFolder(str(tmp_path)), order)
    sync._folder = folder
    assert not any(sync._attempt() for _ in range(PATIENCE + 2))
    (line,) = (tmp_path / "stderr.log").read_text().splitlines()
    assert f'do not all get to {url}: "current", "log", written to' in line
    assert "rename it" in line


def test_no_error_says_a_secret() -> None:
    """Nor more than one line."""
    error = OSError("GET https://host/x?sig=hush-hush\nfailed")
    text = bucket_process.said(error, {"TOKEN": "hush-hush", "SHORT": "x"})
    assert text == "OSError: GET https://host/x?sig=[secret] failed"
    account = {"type": "x", "keys": [{"private_key": "-----BEGIN KEY-----\nhush-hush\n"}]}
    text = bucket_process.said(OSError("no key: hush-hush"), {"FSSPEC_GS": json.dumps(account)})
    assert text == "OSError: no key: [secret]"
    assert bucket_process.said(BucketError("as it is"), {}) == "as it is"
    missing = bucket_process.said(ImportError("No module named 's3fs'"), {})
    assert "add it to environment=" in missing


# -- a machine and a bucket


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    with s3() as running:
        yield running


@pytest.fixture
def bucket(store: S3, request: pytest.FixtureRequest) -> str:
    """A new one."""
    return store.make(f"b{abs(hash(request.node.nodeid))}")


def task(runs: Runs, store: S3, url: str, function: Any, **more: Any) -> Task:
    """For the interpreter that has s3fs: that of this virtual environment."""
    made = runs.task(function, secrets=store.variables(), **more)
    return replace(made, python=sys.executable, restored=True, bucket=url, bucket_every_s=EVERY_S)


def restored(session: Session, store: S3, url: str, **more: Any) -> Restored:
    given: dict[str, Any] = {"secrets": store.variables(), "variables": {}, "claim": True}
    given |= more
    return session.restore_checkpoints(url, sys.executable, **given)


def manifest(store: S3, place: str) -> dict[str, Any]:
    """The state that is there, {} where there is none."""
    return dict(json.loads(store.get(f"{place}/manifest.json") or b"{}"))


def await_files(store: S3, place: str, *paths: str) -> dict[str, Any]:
    """The state, once it is of exactly these files."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        found = manifest(store, place)
        if sorted(entry[0] for entry in found.get("files", ())) == sorted(paths):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not there: {found}")


def _steps(until: int, wait: bool) -> Callable[[], list[str]]:
    """Goes on from its last step, and keeps each."""

    def function() -> list[str]:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        begun = sorted(path.name for path in folder.glob("step_*"))
        for step in range(len(begun), until):
            (folder / f"step_{step}").mkdir()
            (folder / f"step_{step}" / "weights").write_bytes(bytes([step]) * 300_000)
            (folder / f"step_{step}" / "again").write_bytes(bytes([step]) * 300_000)
            (folder / "latest").unlink(missing_ok=True)
            (folder / "latest").symlink_to(f"step_{step}")
        print("ready", flush=True)
        while wait:
            time.sleep(0.01)
        return begun

    return function


@pytest.mark.sshd
def test_checkpoints_are_in_the_bucket_while_the_function_runs_and_there_for_the_next_run(
    runs: Runs, store: S3, bucket: str, tmp_path: Path
) -> None:
    """One state at a time, each content once, only what has changed; another run, on another machine, begins with it."""
    url, place = f"s3://{bucket}/runs/7", f"{bucket}/runs/7"
    with runs.session() as session:
        assert restored(session, store, url) == Restored(0, 0, "")
        session.start(task(runs, store, url, _steps(2, wait=True)))
        await_text(runs.job / "stdout.log", "ready")
        names = [f"step_{n}/{name}" for n in (0, 1) for name in ("weights", "again")]
        found = await_files(store, place, *names)
        assert found["links"] == [["latest", "step_1"]]
        objects = {entry[0]: entry[1] for entry in found["files"]}
        assert objects["step_1/weights"] == objects["step_1/again"]
        (runs.job / "checkpoints" / "step_0" / "weights").unlink()
        (runs.job / "checkpoints" / "step_0" / "again").write_bytes(b"other")
        changed = await_files(store, place, *names[1:])
        kept = {entry[0]: entry[1] for entry in changed["files"]}
        assert kept["step_1/weights"] == objects["step_1/weights"]
        assert kept["step_0/again"] != objects["step_0/again"]
        session.stop()
    used = {entry[1] for entry in manifest(store, place)["files"]}
    assert set(store.keys(bucket, "runs/7/objects/")) == used
    with sshd(tmp_path / "another") as other:
        later = Runs(other, runs.pickler, tmp_path)
        with later.session() as session:
            came = restored(session, store, url)
            assert came == Restored(3, 600_005, runs.server.keys.run_id)
            session.start(task(later, store, url, _steps(3, wait=False)))
            assert later.outcome(session).value == ["step_0", "step_1"]
        weights = later.job / "checkpoints" / "step_1" / "weights"
        assert weights.read_bytes() == b"\1" * 300_000
        assert (later.job / "checkpoints" / "latest").readlink() == Path("step_2")
        # What it has written last is there although it has ended at once.
        last = manifest(store, place)
        assert len(last["files"]) == 5
        assert last["run"] == other.keys.run_id


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("step-*")}


@pytest.mark.sshd
def test_the_newest_checkpoint_is_the_newest_in_the_next_run_too(
    runs: Runs, store: S3, bucket: str
) -> None:
    """Files and folders have the times that they had, also those of the same content, and in the list after the next."""
    url = f"s3://{bucket}/run"

    def function() -> None:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        for step in (8, 9, 10):
            (folder / f"step-{step}").mkdir()
            (folder / f"step-{step}" / "part").symlink_to("whole")
            (folder / f"step-{step}" / "whole").write_text("whole")
            (folder / f"step-{step}.pt").write_text("same")
            for path in (folder / f"step-{step}", folder / f"step-{step}.pt"):
                os.utime(path, ns=(10**18 + step, 10**18 + step))

    wanted = {f"step-{step}{kind}": 10**18 + step for step in (8, 9, 10) for kind in ("", ".pt")}
    with runs.session() as session:
        restored(session, store, url)
        session.start(task(runs, store, url, function))
        assert runs.outcome(session).end.how == "finished"
        for number in range(2):
            restored(session, store, url)
            runs.job.rename(runs.job.with_name(f"former-{number}"))
            session.start(task(runs, store, url, lambda: None))
            assert runs.outcome(session).end.how == "finished"
            assert _times(runs.job / "checkpoints") == wanted


@pytest.mark.sshd
@pytest.mark.parametrize("how", ["deadline", "signal", "early signal"])
def test_what_a_callable_keeps_when_its_time_is_over_gets_there(
    runs: Runs, store: S3, bucket: str, how: str
) -> None:
    """Its `checkpoint()` is called at its deadline, and when its machine is taken back and every process is asked to end.

    Also that which keeps them, be it before its Python has begun.
    """
    slow = runs.folder / "python"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *" sync "*) sleep 2 ;; esac\nexec {sys.executable} "$@"\n'
    )
    slow.chmod(0o700)

    class Trainer:
        def __call__(self) -> None:
            print("ready", flush=True)
            while True:
                time.sleep(0.001)

        def checkpoint(self) -> None:
            Path(os.environ["DAYFLY_CHECKPOINT_DIR"], "step").write_text("41")

    url = f"s3://{bucket}/run"
    with runs.session() as session:
        restored(session, store, url)
        python = str(slow) if how == "early signal" else sys.executable
        session.start(replace(task(runs, store, url, Trainer()), python=python))
        await_text(runs.job / "stdout.log", "ready")
        if how == "deadline":
            job_folder.request_stop(job_folder.JobFolder(str(runs.job)), "deadline")
        else:
            for pid in _processes(runs):
                os.kill(pid, signal.SIGTERM)
        outcome = runs.outcome(session)
    assert outcome.end.how == ("deadline" if how == "deadline" else "exited")
    (entry,) = await_files(store, f"{bucket}/run", "step")["files"]
    assert store.get(f"{bucket}/run/objects/{entry[1]}") == b"41"


def _processes(runs: Runs) -> list[int]:
    """All of the run: supervisor, job, and what keeps its checkpoints."""
    from dayfly.runtime.agent import processes

    mark = f"DAYFLY_RUN={runs.server.keys.run_id}"
    table = processes.process_table()
    job = json.loads((runs.job / "process.json").read_text())["pid"]
    supervisor = json.loads((runs.job / "started.json").read_text())["pid"]
    below = processes.descendants({supervisor}, table)
    assert job in below
    assert len(below) >= 2, "nobody keeps the checkpoints"
    return sorted((below | {supervisor}) & processes.carriers(mark))


@pytest.mark.sshd
def test_the_last_state_gets_there_when_the_supervisor_is_killed(
    runs: Runs, store: S3, bucket: str
) -> None:
    """Whoever keeps it sees that nobody is there any more, brings what there is, and ends."""
    url = f"s3://{bucket}/run"

    def function() -> None:
        print("ready", flush=True)
        time.sleep(600)

    with runs.session() as session:
        restored(session, store, url)
        # Long enough that only the end can be why it looks.
        started = replace(task(runs, store, url, function), bucket_every_s=600.0)
        session.start(started)
        await_text(runs.job / "stdout.log", "ready")
        (runs.job / "checkpoints" / "late").write_text("late")
        os.kill(json.loads((runs.job / "started.json").read_text())["pid"], signal.SIGKILL)
        await_files(store, f"{bucket}/run", "late")


@pytest.mark.sshd
def test_who_keeps_them_and_is_killed_is_missed(runs: Runs, store: S3, bucket: str) -> None:
    """The job goes on; its log says that the last state is not there."""
    url = f"s3://{bucket}/run"

    def function(go: str) -> str:
        print("ready", flush=True)
        while not Path(go).exists():
            time.sleep(0.01)
        return "went on"

    go = runs.folder / "go"
    with runs.session() as session:
        restored(session, store, url)
        made = replace(runs.task(function, str(go), secrets=store.variables()), restored=True)
        session.start(replace(made, python=sys.executable, bucket=url))
        await_text(runs.job / "stdout.log", "ready")
        (keeping,) = [p for p in _processes(runs) if "sync" in psutil.Process(p).cmdline()]
        os.kill(keeping, signal.SIGKILL)
        go.touch()
        outcome = runs.outcome(session)
    assert outcome.value == "went on"
    assert b"did not get to" in outcome.stderr


@pytest.mark.sshd
def test_a_run_that_another_one_has_followed_writes_no_more(
    runs: Runs, store: S3, bucket: str
) -> None:
    """It says so, and goes on."""
    url, place = f"s3://{bucket}/run", f"{bucket}/run"

    def function(go: str) -> str:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        (folder / "first").touch()
        print("ready", flush=True)
        while not Path(go).exists():
            time.sleep(0.01)
        (folder / "second").touch()
        return "went on"

    go = runs.folder / "go"
    with runs.session() as session:
        restored(session, store, url)
        made = replace(runs.task(function, str(go), secrets=store.variables()), restored=True)
        session.start(replace(made, python=sys.executable, bucket=url, bucket_every_s=EVERY_S))
        before = await_files(store, place, "first")
        store.put(f"{place}/claim.json", json.dumps({"run": "f" * 32}).encode())
        go.touch()
        outcome = runs.outcome(session)
    assert outcome.value == "went on"
    assert b"run ffffffff" in outcome.stderr
    assert b"writes there now" in outcome.stderr
    assert manifest(store, place)["id"] == before["id"]


@pytest.mark.sshd
def test_what_was_changed_or_lost_in_the_bucket_is_refused(
    runs: Runs, store: S3, bucket: str
) -> None:
    """Named by its path; so is what is none of ours. The function has not started."""
    url, place = f"s3://{bucket}/run", f"{bucket}/run"
    with runs.session() as session:
        restored(session, store, url)
        session.start(task(runs, store, url, _steps(1, wait=False)))
        runs.outcome(session)
        (first, *_) = await_files(store, place, "step_0/weights", "step_0/again")["files"]
        store.put(f"{place}/objects/{first[1]}", b"x" * 300_000)
        with pytest.raises(DataFailed, match=r"step_0/\w+ is not what manifest.json says"):
            restored(session, store, url)
        store.delete(f"{place}/objects/{first[1]}")
        with pytest.raises(DataFailed, match="lists what is not there any more"):
            restored(session, store, url)
        store.put(f"{place}/manifest.json", b'{"of": "somebody else"}')
        with pytest.raises(DataFailed, match=r"manifest.json is none of Dayfly's"):
            restored(session, store, url)


@pytest.mark.sshd
def test_a_bucket_that_cannot_be_used_is_refused_with_why(
    runs: Runs, store: S3, bucket: str
) -> None:
    """No such bucket, a key that is not known, and none at all; no secret is said."""
    with runs.session() as session:
        with pytest.raises(DataFailed, match="does not exist"):
            restored(session, store, "s3://no-such-bucket/run")
        with store.demand_credentials(), pytest.raises(DataFailed) as refused:
            restored(session, store, f"s3://{bucket}/run")
        assert "secrets=" in str(refused.value)
        assert KEY not in str(refused.value)
        none = {n: v for n, v in store.variables().items() if not n.endswith(("_ID", "_KEY"))}
        off = {**none, "AWS_EC2_METADATA_DISABLED": "true"}
        with pytest.raises(DataFailed, match="redentials"):
            restored(session, store, f"s3://{bucket}/run", secrets=off)
    assert store.keys(bucket, "run/") == []


@pytest.mark.sshd
def test_trouble_while_it_runs_is_told_once_and_ends_nothing(
    runs: Runs, store: S3, bucket: str
) -> None:
    """The bucket is gone for a while; what came meanwhile is there in the end."""
    url, place = f"s3://{bucket}/run", f"{bucket}/run"

    def function(go: str) -> None:
        Path(os.environ["DAYFLY_CHECKPOINT_DIR"], "step").touch()
        print("ready", flush=True)
        while not Path(go).exists():
            time.sleep(0.01)

    go = runs.folder / "go"
    with runs.session() as session:
        restored(session, store, url)
        made = replace(runs.task(function, str(go), secrets=store.variables()), restored=True)
        with store.demand_credentials():
            session.start(replace(made, python=sys.executable, bucket=url, bucket_every_s=EVERY_S))
            await_text(runs.job / "stderr.log", "do not get to")
        await_files(store, place, "step")
        go.touch()
        outcome = runs.outcome(session)
    assert outcome.end.how == "finished"
    assert outcome.stderr.count(b"do not get to") == 1
    assert KEY.encode() not in outcome.stderr


@pytest.mark.sshd
def test_google_s_buckets_are_the_same_to_it(runs: Runs) -> None:
    """By a service account's key in a variable; a file that goes in one request, and one that goes in several."""

    def function() -> None:
        folder = Path(os.environ["DAYFLY_CHECKPOINT_DIR"])
        (folder / "large").write_bytes(bytes(range(250)) * 30_000)
        (folder / "small").write_bytes(b"small\r\n")

    with gcs() as google:
        google.buckets["kept"] = {}
        url = "gs://kept/run"
        secrets = {
            "FSSPEC_GS": json.dumps(google.options),
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        given: dict[str, Any] = {"secrets": secrets, "variables": {}, "claim": True}
        with runs.session() as session:
            came = session.restore_checkpoints(url, sys.executable, **given)
            assert came == Restored(0, 0, "")
            made = replace(runs.task(function, secrets=secrets), restored=True, bucket=url)
            session.start(replace(made, python=sys.executable))
            outcome = runs.outcome(session)
            assert outcome.end.how == "finished", outcome.stderr
            came = session.restore_checkpoints(url, sys.executable, **given)
        assert came == Restored(2, 7_500_007, runs.server.keys.run_id), outcome.stderr
        found = json.loads(google.get("kept/run/manifest.json") or b"{}")
        objects = {entry[0]: entry[1] for entry in found["files"]}
        assert google.get(f"kept/run/objects/{objects['small']}") == b"small\r\n"
        key = google.account["private_key"].splitlines()[1]
        assert key.encode() not in outcome.stderr


@pytest.mark.sshd
def test_a_key_that_google_refuses_is_shown_to_it_once(runs: Runs) -> None:
    """Before anything runs, with the reason, and without a word of the key."""
    # Here, since gathering the tests would take a quarter longer by it, in each process.
    from gcsfs.retry import HttpError

    with gcs() as google, gcs() as other, runs.session() as session:
        google.buckets["kept"] = {}
        account = {**google.account, "private_key": other.account["private_key"]}
        given = {
            "FSSPEC_GS": json.dumps({**google.options, "token": account}),
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        with pytest.raises(DataFailed, match=r"invalid_grant: Invalid JWT Signature") as refused:
            session.restore_checkpoints(
                "gs://kept/run", sys.executable, secrets=given, variables={}, claim=True
            )
    assert google.refused == 1
    refusal, overload = (HttpError({"code": code, "message": "no"}) for code in (401, 503))
    assert bucket_process._is_final(refusal)
    assert not bucket_process._is_final(overload)
    assert account["private_key"].splitlines()[1] not in str(refused.value)
