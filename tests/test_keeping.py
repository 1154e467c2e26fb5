"""What becomes of a machine at the end of its call, and at the beginning of the next, over a real SSH server."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from dayfly.errors import (
    ConnectFailed,
    DeadlineReached,
    EnvironmentFailed,
    JobStopped,
    KeptMachineLost,
)
from dayfly.infra.providers.local import Local
from dayfly.infra.spec import Spec
from dayfly.runtime import keeping
from dayfly.runtime.agent import files
from dayfly.runtime.attend import Attendance
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.records import Keys
from dayfly.runtime.session import Session
from dayfly.runtime.warm_run import WarmRun
from dayfly.stacks import intent, journal, kept
from dayfly.stacks.kept_stack import KeptStack
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER
from tests.sshd import Server, end_carriers, sshd

pytestmark = pytest.mark.sshd
# Between two readings of two clocks, one of which may be set meanwhile.
_CLOCKS_S = 1.0


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all: it knows each run by its id."""
    with sshd(tmp_path_factory.mktemp("kept") / "machine") as running:
        yield running


@pytest.fixture
def server(machine: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A machine that lives, as its provider says; no keeper is started for it."""
    monkeypatch.setattr(Local, "instance_state", lambda *_: "running")
    monkeypatch.setattr(Attendance, "entrust", lambda *_: {"pid": 1})
    return machine


Attends = Callable[..., Attendance]


@pytest.fixture
def attends(workspace: Workspace, server: Server) -> Attends:
    """Attends a run that has the machine, and has got so far."""

    def one(keep: str | None = "10m", *events: tuple[str, dict[str, Any]]) -> Attendance:
        kind = RunStack if keep is None else KeptStack
        stack = kind(Spec(keep=keep, environment=[]), workspace, None, ())
        intent.write(workspace, stack.id, stack.spec, OFFER, client=journal.myself())
        (stack.directory / "user_key").unlink()
        shutil.copy(server.keys.user_key, stack.directory / "user_key")
        journal.append(stack.directory, "machine", **asdict(server.machine))
        for name, said in events:
            journal.append(stack.directory, name, **said)
        stack._open = True
        attendance = Attendance(Display.silent())
        attendance.run_stack = stack
        return attendance

    return one


def ended(outcome: str = "value", how: str = "finished", **more: Any) -> list[Any]:
    """The events of a call that is over."""
    return [
        ("job_started", {}),
        ("job_ended", {"how": how, "detail": "", **more}),
        ("result", {"outcome": outcome}),
        ("acknowledged", {}),
    ]


def leave(attendance: Attendance, server: Server, error: Exception | None = None) -> bool:
    """Leaves the machine in that way; whether it is kept."""
    stack = keeping.stack_of(attendance)
    try:
        with (
            Session(server.machine, Keys.of(attendance.directory)) as session,
            keeping.handed_on(attendance, session),
        ):
            if error is not None:
                raise error
    except (EnvironmentFailed, ValueError):
        pass
    is_kept = kept.until(attendance.history) is not None
    if stack is not None:
        assert stack.needs_closing is not is_kept
        stack.leave_open()
    end_carriers(attendance.directory.name)
    return is_kept


@pytest.mark.parametrize(
    ("keep", "events", "is_kept"),
    [
        ("10m", ended(), True),
        ("10m", ended("raised"), True),
        ("10m", ended("", "killed"), True),
        ("always", ended(), True),
        ("on-failure", ended(), False),
        ("on-failure", ended("calls"), False),
        ("on-failure", ended("raised"), True),
        ("on-failure", ended("", "exited"), True),
        ("always", ended("", "stopped"), False),
        ("always", ended("", "deadline"), False),
        ("always", ended(detail="GPU 0 was idle"), False),
        ("always", ended("calls", cue="deadline"), False),
        ("always", ended()[:-1], False),
        ("always", [*ended(), ("cancelled", {"by": {}})], False),
    ],
)
def test_it_is_kept_after_a_call_that_ended_by_itself(
    attends: Attends, server: Server, keep: str, events: list[Any], is_kept: bool
) -> None:
    """As its Spec says; never after one that was stopped, idled, ran into its deadline, or left its result there."""
    assert leave(attends(keep, *events), server) is is_kept


@pytest.mark.parametrize(
    ("keep", "events", "is_kept"),
    [
        ("on-failure", ended("calls"), True),
        ("10m", ended("calls"), True),
        ("on-failure", ended("calls", cue="deadline"), False),
        ("on-failure", ended("", "stopped"), False),
    ],
)
def test_calls_whose_block_was_left_by_an_exception_have_failed(
    attends: Attends, server: Server, keep: str, events: list[Any], is_kept: bool
) -> None:
    """The run that made them ends as well as any, since it is its client that knows; what ended it for good keeps nothing."""
    attendance = attends(keep, *events)
    attendance.failed = True
    assert leave(attendance, server) is is_kept


@pytest.mark.parametrize(
    ("error", "failed"),
    [(ValueError("of a call"), True), (GeneratorExit(), False), (KeyboardInterrupt(), False)],
    ids=lambda each: type(each).__name__,
)
def test_a_session_that_an_exception_leaves_has_failed(
    workspace: Workspace, error: BaseException, failed: bool
) -> None:
    """A map that is left early, and an interrupt, are wishes."""
    made: WarmRun[Any, Any] = WarmRun(abs, Spec())
    made._job = Job(workspace, Display.silent())
    made._job._attendance = attendance = Attendance(Display.silent())
    made._job.set_result(None)
    made._abandon(error)
    assert attendance.failed is failed


def test_what_is_wrong_with_an_environment_costs_no_machine(
    attends: Attends, server: Server
) -> None:
    """It counts as a call that has failed: the next one has it mended."""
    failed = EnvironmentFailed("no such package")
    assert leave(attends("on-failure"), server, failed)
    assert not leave(attends("on-failure"), server, ValueError("of ours"))


def test_a_call_that_is_to_stop_keeps_nothing(attends: Attends, server: Server) -> None:
    """Whatever its function has made of that."""
    attendance = attends("always", *ended())
    attendance._stopping.set()
    assert not leave(attendance, server)


def test_without_a_keeper_nothing_is_kept(
    attends: Attends, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would end it in time."""
    monkeypatch.setattr(Attendance, "entrust", lambda *_: None)
    said: list[str] = []
    monkeypatch.setattr(Display, "warning", lambda _, text: said.append(text))
    assert not leave(attends("10m", *ended()), server)
    assert "not kept, but destroyed: no keeper" in said[0]


def test_the_machine_ends_itself_soon_after_nobody_has_come(
    attends: Attends, server: Server
) -> None:
    """Were client and keeper both gone; and the value is the caller's only when the next call finds the machine."""
    attendance = attends("10m", *ended())
    seen: list[float | None] = []

    def early(value: Callable[[], Any]) -> None:
        seen.append(kept.until(attendance.history))

    attendance.early = early
    stack = keeping.stack_of(attendance)
    assert stack is not None
    began, began_boot = time.time(), files.boot_clock_s()
    with (
        Session(server.machine, Keys.of(attendance.directory)) as session,
        keeping.handed_on(attendance, session),
    ):
        attendance.early(lambda: None)
        assert seen == []
    (until,) = seen
    assert until is not None
    assert began + 600 <= until <= time.time() + 600
    armed = json.loads((server.home / f"deadline-{stack.id}.json").read_text())
    assert began_boot + 660 - _CLOCKS_S <= armed["at"] <= files.boot_clock_s() + 660 + _CLOCKS_S
    end_carriers(stack.id)


def test_a_run_without_keep_gives_its_value_at_once(attends: Attends, server: Server) -> None:
    """As ever."""
    attendance, seen = attends(None, *ended()), list[Any]()
    attendance.early = seen.append
    with keeping.handed_on(attendance, Session(server.machine, Keys.of(attendance.directory))):
        attendance.early(lambda: 1)
        assert len(seen) == 1
    attendance.run_stack.leave_open()  # type: ignore[union-attr]


@pytest.fixture
def guest(workspace: Workspace, attends: Attends, server: Server) -> Iterator[Attendance]:
    """Attends a run that has taken the machine of another."""
    host = attends("10m", *ended())
    directory = host.directory
    run = directory.name
    (server.home / f"job-{run}").mkdir()
    until = {"until": time.time() + 600, "after": run}
    journal.append(directory, "kept", **until)
    host.run_stack.leave_open()  # type: ignore[union-attr]
    stack = KeptStack(Spec(keep="10m", environment=[]), workspace, None, ())
    taken = journal.read(directory)
    journal.append(directory, "claimed", run=stack.id, by=journal.myself())
    stack.host = taken
    stack._take(taken)
    attendance = Attendance(Display.silent())
    attendance.run_stack = stack
    yield attendance
    stack.leave_open()
    end_carriers(run)
    end_carriers(stack.id)


def test_the_next_call_has_the_machine_to_itself_and_leaves_it_so(
    workspace: Workspace, guest: Attendance, server: Server
) -> None:
    """Its deadline is the machine's again, nothing of the call before is there, and its own deadline goes with it."""
    stack = keeping.stack_of(guest)
    assert stack is not None
    assert stack.host is not None
    host = stack.host.id
    began, began_boot = time.time(), files.boot_clock_s()
    with Session(server.machine, Keys.of(guest.directory)) as session:
        session.arm_deadline(500)
        keeping.take_over(guest, session)
        armed = json.loads((server.home / f"deadline-{host}.json").read_text())
        deadline = stack.host.deadline - began + began_boot
        took_s = files.boot_clock_s() - began_boot
        assert deadline - _CLOCKS_S <= armed["at"] <= deadline + took_s + _CLOCKS_S
        assert not (server.home / f"job-{host}").exists()
        for name, said in ended():
            journal.append(guest.directory, name, **said)
        with keeping.handed_on(guest, session):
            pass
    assert not (server.home / f"deadline-{stack.id}.json").exists()
    history = journal.read(workspace.directory(host))
    assert history.field("kept", "after") == stack.id
    until = kept.until(history)
    assert until is not None
    assert began + 600 <= until <= time.time() + 600
    assert stack.needs_closing


@pytest.mark.parametrize("started", [False, True])
def test_trouble_with_a_kept_machine_is_not_the_call_s_until_its_function_runs(
    guest: Attendance, started: bool
) -> None:
    """From then on it may have been started, and is not started again."""
    if started:
        journal.append(guest.directory, "job_started")
    expected = ConnectFailed if started else KeptMachineLost
    with pytest.raises(expected, match="nobody answers"), keeping.or_lost(guest):
        raise ConnectFailed("nobody answers")


@pytest.mark.parametrize("error", [JobStopped("asked for"), EnvironmentFailed("no such package")])
def test_what_is_not_the_machine_s_fault_stays_what_it_is(
    guest: Attendance, error: Exception
) -> None:
    """Another machine would not help."""
    with pytest.raises(type(error)), keeping.or_lost(guest):
        raise error


def test_a_machine_that_its_provider_has_not_is_not_waited_for(
    guest: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor connected to."""
    monkeypatch.setattr(Local, "instance_state", lambda *_: "terminated")
    with pytest.raises(KeptMachineLost, match="terminated"), keeping.or_lost(guest):
        raise AssertionError


def test_too_little_time_on_a_kept_machine_asks_for_another(guest: Attendance) -> None:
    """One of its own has all of max_runtime."""
    with pytest.raises(KeptMachineLost, match="max_runtime"), keeping.or_lost(guest):
        raise DeadlineReached("max_runtime was over before the function could start")


def test_a_machine_of_its_own_is_judged_as_ever(attends: Attends) -> None:
    """It is what was asked for."""
    attendance = attends("10m")
    with pytest.raises(ConnectFailed), keeping.or_lost(attendance):
        raise ConnectFailed("nobody answers")
    attendance.run_stack.leave_open()  # type: ignore[union-attr]
