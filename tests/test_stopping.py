"""What a run is granted whose end was asked for, over a real SSH server."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from dayfly.infra.providers.local import Local
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.runtime import attach, outputs, payload, stopping, tend
from dayfly.runtime.agent import frames
from dayfly.runtime.attend import Attendance
from dayfly.runtime.context import Context
from dayfly.runtime.records import Keys, Task
from dayfly.runtime.session import Session
from dayfly.stacks import intent, journal, vitals
from dayfly.stacks.closer import Closer
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.runs import GONE, OFFER
from tests.sshd import Server, end_carriers, sshd

_JOB = {"started": 1.0, "ended": 2.0, "code": 0, "signal": 15, "out_of_memory": False}
Leaves = Callable[..., History]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all: it knows each run by its id."""
    with sshd(tmp_path_factory.mktemp("stopped") / "machine") as running:
        yield running


def trainer() -> Callable[[], None]:
    """Works for ever, and keeps what it has when it is asked to end."""

    def trains() -> None:
        print("begun", flush=True)
        try:
            while True:
                time.sleep(0.005)
        finally:
            Path(os.environ["DAYFLY_OUTPUT_DIR"], "model").write_text("half")
            print("kept", flush=True)

    return trains


def deaf() -> Callable[[], None]:
    """Works for ever, also when it is asked to end."""

    def goes_on() -> None:
        print("begun", flush=True)
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                print("asked", flush=True)

    return goes_on


@pytest.fixture
def leaves(
    workspace: Workspace, machine: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Leaves]:
    """Starts a function on the machine, and leaves it there as its client did; its end was asked for since."""
    monkeypatch.setattr(Local, "instance_state", lambda *_: "running")
    started = list[str]()

    def one(
        function: Callable[[], None], *, client: Any = GONE, grace: float = 5.0, **spec: Any
    ) -> History:
        run = new_id()
        intent.write(
            workspace, run, Spec(environment=[], grace=grace, **spec), OFFER, client=client
        )
        directory = workspace.directory(run)
        (directory / "user_key").unlink()
        shutil.copy(machine.keys.user_key, directory / "user_key")
        journal.append(directory, "machine", **asdict(machine.machine))
        keys = Keys.of(directory)
        header = {
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "function": "test:function",
            "imports": [],
            "sources": {},
        }
        body = json.dumps(header).encode() + b"\n" + cloudpickle.dumps((function, (), {}), 5)
        task = Task(
            sealed=frames.seal(keys.hmac_key, run, frames.TASK_SEQ, body),
            python=os.path.realpath(sys.executable),
            pickler=payload.pickler_zip(tmp_path),
            grace_s=grace,
        )
        with Session(machine.machine, keys) as session:
            session.start(task)
            started.append(run)
            while not session.look(tail=10).tails["stdout"]:
                assert session.status().end is None
                time.sleep(0.01)
        journal.append(directory, "job_started", python="3.11")
        journal.append(directory, "cancelled", by=journal.myself())
        return journal.read(directory)

    yield one
    for run in started:
        end_carriers(run)


def stopped(
    workspace: Workspace, history: History, meanwhile: Callable[[str], object] = lambda _: None
) -> list[str]:
    """What is said while it is stopped, and done about each of these words."""
    said = list[str]()

    def report(text: str) -> None:
        said.append(text)
        meanwhile(text)

    stopping.stop(workspace, history, report)
    return said


@pytest.mark.sshd
def test_what_a_run_has_is_brought_home_before_its_machine_goes(
    workspace: Workspace, leaves: Leaves
) -> None:
    """Its function is asked first; log and outputs are here then, and how it ended."""
    history = leaves(trainer())
    assert stopping.is_due(history)
    said = stopped(workspace, history)
    assert "has 5.0 s for that" in said[0]
    assert len(said) == 2
    now = journal.read(history.directory)
    assert now.field("job_ended", "how") == "stopped"
    assert now.field("held", "with_log") is True
    assert (now.directory / "stdout.log").read_text() == "begun\nkept\n"
    assert (outputs.folder_of(now) / "model").read_text() == "half"
    assert not stopping.is_due(now)


@pytest.mark.sshd
def test_a_log_that_cannot_be_masked_here_stays_there(workspace: Workspace, leaves: Leaves) -> None:
    """Which is said, since it goes with the machine; outputs are no log."""
    history = leaves(trainer(), secrets=["DAYFLY_TEST_TOKEN"])
    said = stopped(workspace, history)
    assert "DAYFLY_TEST_TOKEN, not set here" in said[-1]
    now = journal.read(history.directory)
    assert not (now.directory / "stdout.log").exists()
    assert (outputs.folder_of(now) / "model").exists()


@pytest.mark.sshd
def test_a_client_that_lives_brings_home_what_it_waits_for(
    workspace: Workspace, leaves: Leaves
) -> None:
    """Two that bring the same would be in each other's way; where it ends before, this process does."""
    history = leaves(trainer(), client=journal.myself())

    def client_does(text: str) -> None:
        if "its client brings home" in text:
            journal.append(history.directory, "acknowledged")

    said = stopped(workspace, history, client_does)
    assert "its client brings home" in said[-1]
    assert journal.read(history.directory).last("held") is None
    history = leaves(trainer(), client=journal.myself())

    def client_dies(text: str) -> None:
        if "its client brings home" in text:
            told = history.intent | {"client": GONE}
            journal.append(history.directory, "intent", **told)

    stopped(workspace, history, client_dies)
    assert (outputs.folder_of(history) / "model").read_text() == "half"


@pytest.mark.sshd
@pytest.mark.parametrize("how", ["request", "interrupt"])
def test_whoever_asks_once_more_waits_for_no_grace(
    workspace: Workspace, leaves: Leaves, how: str
) -> None:
    """Another `dayfly cancel`, or Ctrl-C in this one; the machine ends with what runs there."""
    history = leaves(deaf(), grace=600.0)

    def again(text: str) -> None:
        if "asked to end" in text:
            if how == "interrupt":
                raise KeyboardInterrupt
            journal.append(history.directory, "cancelled", by=journal.myself())

    said = stopped(workspace, history, again)
    assert {"request": "asked for once more", "interrupt": "interrupted"}[how] in said[-1]
    assert journal.read(history.directory).last("job_ended") is None


@pytest.mark.sshd
def test_a_machine_that_does_not_end_its_function_is_not_waited_for(
    workspace: Workspace, leaves: Leaves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a client that does not come to its end."""
    monkeypatch.setattr(stopping, "_ANSWER_S", 0.0)
    monkeypatch.setattr(stopping, "asked_grace_s", lambda _: 0.3)
    monkeypatch.setattr(stopping, "_CLIENT_S", 0.3)
    monkeypatch.setattr(stopping, "_CONNECT_S", 30.0)
    history = leaves(deaf(), grace=600.0)
    assert "does not end the function" in stopped(workspace, history)[-1]
    monkeypatch.setattr(stopping, "_ANSWER_S", 10.0)
    history = leaves(trainer(), client=journal.myself())
    assert "its client has not brought it home" in stopped(workspace, history)[-1]


def test_a_machine_that_does_not_answer_is_said_and_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was: nothing may keep one that is to end."""
    monkeypatch.setattr(stopping, "_CONNECT_S", 0.1)
    run = runs.opened(workspace, alive=False)
    runs.launched(workspace, run)
    history = journal.read(workspace.directory(run))
    (said,) = stopped(workspace, history)
    assert said.startswith(
        "its machine is destroyed with what had not come home: 127.0.0.1:9 could"
    )


@pytest.mark.parametrize(
    ("events", "due"),
    [
        ([("cancelled", {})], True),
        ([], False),
        ([("cancelled", {}), ("cancelled", {})], False),
        ([("cancelled", {}), ("attached", {}), ("cancelled", {})], True),
        ([("job_ended", _JOB), ("cancelled", {})], True),
        ([("held", {}), ("cancelled", {})], False),
        ([("acknowledged", {}), ("cancelled", {})], False),
        ([("cancelled", {}), ("closing", {})], False),
        ([("instance_lost", {}), ("cancelled", {})], False),
        ([("kept", {"until": 9e9}), ("cancelled", {})], False),
    ],
)
def test_only_what_may_leave_something_is_asked_to_end(
    workspace: Workspace, events: list[tuple[str, dict[str, Any]]], due: bool
) -> None:
    """Once: a second request gives up what it would leave."""
    run = runs.opened(workspace)
    runs.launched(workspace, run)
    for name, fields in events:
        journal.append(workspace.directory(run), name, **fields)
    assert stopping.is_due(journal.read(workspace.directory(run))) is due


def test_what_was_never_started_is_not_asked_to_end(workspace: Workspace) -> None:
    """There is nothing that could hear it."""
    run = runs.opened(workspace)
    journal.append(workspace.directory(run), "cancelled")
    assert not stopping.is_due(journal.read(workspace.directory(run)))


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done about a run, one after the other."""
    done = list[str]()
    monkeypatch.setattr(stopping, "stop", lambda _, history, report: done.append("stop"))
    monkeypatch.setattr(Closer, "close", lambda *_, **__: done.append("close"))
    monkeypatch.setattr(Attendance, "entrust", lambda *_: None)
    return done


def test_the_keeper_stops_what_was_cancelled_before_it_destroys(
    workspace: Workspace, order: list[str]
) -> None:
    """A job that was let go of, whose `stop` tells the keeper; one that another process stops is left to that, as long as it
    lives and does not hang."""
    run = runs.opened(workspace, alive=False)
    runs.launched(workspace, run)
    directory = workspace.directory(run)
    journal.append(directory, "detached", by=journal.myself(), wished=True)
    journal.append(directory, "cancelled", by=vitals.described(os.getppid()), stops=True)
    again = tend.tend(Context.open(), run, lambda _: None)
    assert again is not None
    assert order == []
    assert stopping.is_under_way(journal.read(directory))
    journal.append(directory, "attached", client=GONE)
    journal.append(directory, "cancelled", by=GONE, stops=True)
    tend.tend(Context.open(), run, lambda _: None)
    assert order == ["stop", "close"]


def test_a_second_cancel_destroys_at_once(workspace: Workspace, order: list[str]) -> None:
    """The first grants what may be left; what was never started has nothing."""
    run = runs.opened(workspace)
    runs.launched(workspace, run)
    attach.cancel(run, lambda _: None)
    assert order == ["stop", "close"]
    assert journal.read(workspace.directory(run)).field("cancelled", "stops") is True
    attach.cancel(run, lambda _: None)
    assert order == ["stop", "close", "close"]
    attach.cancel(runs.opened(workspace), lambda _: None)
    assert order == ["stop", "close", "close", "close"]
