"""Attendance in trouble: once the function has started, a machine that lives is left up with what is on it."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.errors import (
    ConnectFailed,
    DayflyError,
    DeadlineReached,
    Forged,
    HostKeyMismatch,
    InstanceLost,
    KeeperMissing,
    ResultFailed,
    RunFailed,
)
from dayfly.infra import providers
from dayfly.infra.found import State
from dayfly.infra.providers.local import Local
from dayfly.runtime.attend import Attendance
from dayfly.runtime.display import Display
from dayfly.runtime.records import JobEnd
from dayfly.stacks import journal
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.runs import GONE, launched, opened

END = JobEnd("finished", 0, 0, False, 1.0, 2.0)


class Far:
    """A session's far end whose acts fail as they are told; it notes which were asked for."""

    machine = SimpleNamespace(provider="local", id="local-1")

    def __init__(self, **failures: Exception) -> None:
        self.failures, self.asked = failures, list[str]()

    def _act(self, name: str, value: Any = None) -> Any:
        self.asked.append(name)
        if name in self.failures:
            raise self.failures[name]
        return value

    def status(self) -> Any:
        return self._act("status", SimpleNamespace(state="running"))

    def follow(self, sink: Any, *_: object) -> JobEnd:
        sink("stdout", 0, b"token")
        return self._act("follow", END)  # type: ignore[no-any-return]

    def arm_deadline(self, *_: object, **__: object) -> str:
        return self._act("arm_deadline", "process")  # type: ignore[no-any-return]

    def fetch_result(self, path: Any) -> None:
        self._act("fetch_result")
        path.write_bytes(b"sealed")

    def acknowledge(self) -> None:
        self._act("acknowledge")

    def stop(self) -> None:
        self._act("stop")

    def close(self) -> None:
        self.asked.append("close")


@pytest.fixture
def attendance(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Attendance:
    """Of a run whose machine lives, as its provider says."""
    history = journal.read(workspace.directory(opened(workspace)))
    attendance = Attendance(Display.silent())
    stack = SimpleNamespace(
        directory=history.directory,
        id=history.id,
        workspace=workspace,
        left=False,
        cancel=lambda: None,
        record=lambda event, **fields: journal.append(history.directory, event, **fields),
    )
    stack.leave_open = functools.partial(setattr, stack, "left", True)
    attendance.run_stack = stack  # type: ignore[assignment]
    monkeypatch.setattr(Attendance, "machine_runs", lambda _: True)
    monkeypatch.setattr(Attendance, "entrust", lambda *_: None)
    return attendance


@pytest.mark.parametrize(
    "trouble",
    [
        InstanceLost("silent for ten minutes"),
        HostKeyMismatch("a portal answered for the machine"),
        ConnectFailed("nobody answers"),
        RunFailed("OSError: [Errno 28] No space left on device"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("act", ["status", "follow", "fetch_result"])
def test_a_machine_that_lives_is_left_up(
    attendance: Attendance, trouble: Exception, act: str
) -> None:
    """With its function, or its result; the message has the command that brings it."""
    with pytest.raises(ResultFailed, match="dayfly attach"):
        attendance.finish(Far(**{act: trouble}))  # type: ignore[arg-type]
    assert attendance.run_stack.left  # type: ignore[union-attr]
    assert attendance.history.last("detached") is not None


@pytest.mark.parametrize("error", [Forged("another's"), DeadlineReached("over")])
def test_what_waiting_cannot_mend_ends_the_run(attendance: Attendance, error: DayflyError) -> None:
    """A forged result, and a deadline."""
    with pytest.raises(type(error)):
        attendance.finish(Far(fetch_result=error))  # type: ignore[arg-type]
    assert not attendance.run_stack.left  # type: ignore[union-attr]


def test_a_machine_that_is_gone_is_not_left(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to come back to."""
    monkeypatch.setattr(Attendance, "machine_runs", lambda _: False)
    with pytest.raises(InstanceLost):
        attendance.finish(Far(follow=InstanceLost("gone")))  # type: ignore[arg-type]


def test_a_machine_that_its_provider_has_given_up_is_not_asked_for_again(
    attendance: Attendance,
) -> None:
    """It may not answer a second time."""
    with pytest.raises(InstanceLost):
        attendance.finish(Far(follow=InstanceLost("gone", "preempted")))  # type: ignore[arg-type]
    assert not attendance.run_stack.left  # type: ignore[union-attr]


@pytest.mark.parametrize("act", ["arm_deadline", "acknowledge"])
def test_a_machine_too_full_for_small_things_does_not_cost_the_result(
    attendance: Attendance, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a hold that cannot be lengthened nor a receipt that cannot be noted is a failure of the call."""
    monkeypatch.setattr("dayfly.runtime.stored.unsealed", lambda _: b"value")
    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {})
    monkeypatch.setattr("dayfly.runtime.outcome.unpack", lambda result, run_id: result)
    far = Far(**{act: RunFailed("OSError: [Errno 28] No space left on device")})
    assert attendance.finish(far) == b"value"  # type: ignore[arg-type]
    assert far.asked[-1] == "acknowledge"
    assert attendance.history.last("acknowledged") is not None


def test_a_log_that_cannot_be_masked_stays_there(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the result comes."""
    monkeypatch.setattr("dayfly.runtime.stored.unsealed", lambda _: b"value")
    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {})
    monkeypatch.setattr("dayfly.runtime.outcome.unpack", lambda result, run_id: result)
    far = Far()
    for with_log, kept in ((False, b""), (True, b"token")):
        assert attendance.finish(far, with_log=with_log) == b"value"  # type: ignore[arg-type]
        assert (attendance.directory / "stdout.log").read_bytes() == kept


def test_a_stop_that_the_machine_refuses_closes_the_session(attendance: Attendance) -> None:
    """The machine is destroyed then, and the function with it."""
    far = Far(stop=InstanceLost("no job of this run"))
    attendance._session, attendance._following = far, True  # type: ignore[assignment]
    attendance.stop()
    assert far.asked == ["stop", "close"]


def test_the_provider_is_asked_whether_the_machine_runs(workspace: Workspace) -> None:
    """Without a machine in the journal there is none."""
    attendance = Attendance(Display.silent())
    history = journal.read(workspace.directory(opened(workspace)))
    attendance.run_stack = SimpleNamespace(directory=history.directory)  # type: ignore[assignment]
    assert not attendance.machine_runs()
    assert providers.load("local").instance_state("local-none") == "terminated"


def test_a_computer_without_any_network_destroys_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither machine nor provider answers: that says nothing of the machine, which goes on."""

    def away(*_: object) -> State:
        raise DayflyError("no route to the provider")

    monkeypatch.setattr(Local, "instance_state", away)
    monkeypatch.setattr(Attendance, "entrust", lambda *_: None)
    run_id = opened(workspace)
    launched(workspace, run_id)
    attendance = Attendance(Display.silent())
    stack = RunStack.resume(journal.read(workspace.directory(run_id)), workspace, None)
    with pytest.raises(ResultFailed, match="dayfly attach"), attendance.stack(stack):
        attendance.finish(Far(follow=InstanceLost("silent for ten minutes")))  # type: ignore[arg-type]
    assert not stack.needs_closing
    assert attendance.history.last("closing") is None
    assert attendance.history.last("detached") is not None


def test_a_keeper_that_has_ended_is_replaced_and_one_that_cannot_be_had_is_tried_for_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A living one is not asked for anything; of one that cannot be started is told once, and the tries get fewer."""
    run = workspace.directory(opened(workspace))
    said = list[str]()
    display = SimpleNamespace(warning=said.append)
    attendance = Attendance(display)  # type: ignore[arg-type]
    attendance.run_stack = SimpleNamespace(directory=run, workspace=workspace)  # type: ignore[assignment]
    answers: list[Any] = [GONE, journal.myself()]
    given = list[str]()

    def entrust(_: Workspace, runs: Any) -> Any:
        given.extend(history.id for history in runs)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("dayfly.runtime.entrust.entrust", entrust)
    for _ in range(5):
        attendance.stay_kept()
    assert given == [run.name] * 2
    attendance._keeper = GONE
    answers += [KeeperMissing("none here"), KeeperMissing("none here"), journal.myself()]
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for now, tries in ((1000, 3), (1049, 3), (1051, 4), (1150, 4), (1152, 5), (9999, 5)):  # noqa: B007
        attendance.stay_kept()
        assert len(given) == tries
    assert [text[:25] for text in said] == ["the keeper is not there ("]
