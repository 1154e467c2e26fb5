"""Attendance in trouble: once the function has started, a machine that lives is left up with what is on it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from dayfly.errors import (
    ConnectFailed,
    DayflyError,
    DeadlineReached,
    Detached,
    Forged,
    GpuIdle,
    HostKeyMismatch,
    InstanceLost,
    JobExited,
    JobStopped,
    KeeperMissing,
    OutputsFailed,
    ResultFailed,
    RunFailed,
)
from dayfly.infra import providers
from dayfly.infra.found import State
from dayfly.infra.providers.local import Local
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.runtime import ledger, samples
from dayfly.runtime.attach import stored_result
from dayfly.runtime.attend import Attendance
from dayfly.runtime.display import Display
from dayfly.runtime.job import _worth_another
from dayfly.runtime.records import JobEnd
from dayfly.stacks import journal
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.runs import GONE, OFFER, launched, opened
from tests.test_agent_samples import sample
from tests.test_samples import lines

END = JobEnd("finished", 0, 0, False, 1.0, 2.0)


class Far:
    """A session's far end whose acts fail as they are told; it notes which were asked for."""

    machine = SimpleNamespace(provider="local", id="local-1")
    others, deciding = (), None

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

    def look(self, *_: object) -> Any:
        return self._act("look", SimpleNamespace(last=0, samples=b""))

    def arm_deadline(self, *_: object, **__: object) -> str:
        return self._act("arm_deadline", "process")  # type: ignore[no-any-return]

    def fetch_result(self, path: Any) -> None:
        self._act("fetch_result")
        path.write_bytes(b"sealed")

    def transfer(self, act: Any) -> None:
        self._act("transfer")

    def acknowledge(self) -> None:
        self._act("acknowledge")

    def stop(self) -> None:
        self._act("stop")

    def close(self) -> None:
        self.asked.append("close")


class Cued(Far):
    """One whose function was asked to end, and has come to its end."""

    cue: Literal["deadline", "idle"] = "deadline"

    def follow(self, sink: Any, *_: object) -> JobEnd:
        return dataclasses.replace(END, cue=self.cue, detail="GPU 0 was idle")


def no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a far end gives for a result is not sealed."""
    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {})
    monkeypatch.setattr("dayfly.runtime.stored.value", lambda *_, **__: b"value")


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
@pytest.mark.parametrize("act", ["status", "follow", "fetch_result", "transfer"])
def test_a_machine_that_lives_is_left_up(
    attendance: Attendance, trouble: Exception, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its function, its result or its outputs; the message has the command that brings it."""
    no_value(monkeypatch)
    with pytest.raises(ResultFailed, match="dayfly attach"):
        attendance.finish(Far(**{act: trouble}))  # type: ignore[arg-type]
    assert attendance.run_stack.left  # type: ignore[union-attr]
    assert attendance.history.last("detached") is not None


def test_a_gpu_that_idles_is_warned_of_with_its_machine_and_the_price_of_one(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of several machines each is watched; what it tells is kept beside its log."""
    directory = workspace.directory(new_id())
    (directory / "ranks/1").mkdir(parents=True)
    offer = dataclasses.replace(OFFER, provider="lambda").as_dict()
    journal.append(directory, "intent", provider="lambda", spec={"nodes": 2}, offer=offer)
    journal.append(directory, "launched", id="i-0", usd_per_hour=8.0)
    attendance = Attendance(Display.standard())
    attendance.run_stack = SimpleNamespace(  # type: ignore[assignment]
        directory=directory, record=functools.partial(journal.append, directory)
    )
    take, last = attendance._samples_of(1)
    take(11, lines(*(sample(n, s=60.0, gpus=[[20.0, 1, 2]]) for n in range(12))))
    assert last == -1
    assert len(samples.read_all(directory, 2)[1]) == 12
    said = capfd.readouterr().err
    assert "[1] the GPU was in use for 20 % of the last 10 min, and costs $4.00/h" in said
    assert journal.read(directory).field("gpu_idle", "node") == 1


class Ended(Far):
    """A far end whose function has ended while no client was there."""

    def status(self) -> Any:
        return self._act("status", SimpleNamespace(state="ended", end=END))


def ledger_of(attendance: Attendance) -> list[dict[str, Any]]:
    """The lines that a run has there."""
    file = attendance.directory / ledger.FILE
    return [*map(json.loads, file.read_text().splitlines())] if file.exists() else []


@pytest.mark.parametrize("how", ["the keeper", "whoever attaches", "its client"])
def test_a_run_has_one_line_in_its_ledger_whoever_brings_its_value_home(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By the journal's times, where it is not its client; who comes after does not add one."""
    no_value(monkeypatch)
    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {"outcome": "value"})
    attendance.record("data", bytes=5, seconds=0.25)
    if how == "the keeper":
        attendance.hold(Ended(), with_log=True)  # type: ignore[arg-type]
    elif how == "its client":
        attendance.began = time.perf_counter() - 60.0
        attendance.sent = ledger.Times(pickle_s=0.5, upload_s=0.75, argument_bytes=7)
    attendance.finish(Ended())  # type: ignore[arg-type]
    attendance.finish(Ended())  # type: ignore[arg-type]
    (line,) = ledger_of(attendance)
    assert (line["call"], line["outcome"], line["run_s"]) == (1, "value", 1.0)
    assert (line["data_s"], line["data_bytes"]) == (0.25, 5)
    if how == "its client":
        assert (line["pickle_s"], line["upload_s"], line["argument_bytes"]) == (0.5, 0.75, 7)
        assert line["total_s"] >= 60.0
    else:
        first, fetched = attendance.history.events[0], attendance.history.last("result_fetched")
        assert fetched is not None
        assert 0.0 < line["total_s"] <= fetched.time - first.time
    assert (ledger.totals(attendance.directory) or {})["without_value"] == 0


def test_a_value_that_is_still_to_come_is_no_line_of_the_ledger(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever brings it writes the line; of a function without a result its end is one, and a session has its own lines."""
    with pytest.raises(ResultFailed):
        attendance.finish(Far(fetch_result=OSError(28, "No space left")))  # type: ignore[arg-type]
    assert ledger_of(attendance) == []
    no_value(monkeypatch)
    attendance.record("intent", **{**attendance.history.intent, "warm": True})
    attendance.hold(Ended(), with_log=False)  # type: ignore[arg-type]
    assert ledger_of(attendance) == []
    attendance.record("intent", **{**attendance.history.intent, "warm": False})
    attendance.record("job_ended", **dataclasses.asdict(dataclasses.replace(END, how="exited")))
    attendance.record("result")
    attendance.enter_call()
    assert [line["outcome"] for line in ledger_of(attendance)] == ["exited"]


@pytest.mark.parametrize("error", [Forged("another's"), DeadlineReached("over")])
def test_what_waiting_cannot_mend_ends_the_run(attendance: Attendance, error: DayflyError) -> None:
    """A forged result, and a deadline."""
    with pytest.raises(type(error)):
        attendance.finish(Far(fetch_result=error))  # type: ignore[arg-type]
    assert not attendance.run_stack.left  # type: ignore[union-attr]


def test_a_session_that_was_ended_before_its_time_has_failed(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has left a result, as its machine's process always does; a function that took its cue has its value."""
    no_value(monkeypatch)
    assert attendance.finish(Cued()) == b"value"  # type: ignore[arg-type]
    told: list[Callable[[], Any]] = []
    attendance.serves, attendance.early = True, told.append
    with pytest.raises(DeadlineReached, match="max_runtime"):
        attendance.finish(Cued())  # type: ignore[arg-type]
    # Whoever waits for a call hears of it before the machine is gone.
    with pytest.raises(DeadlineReached, match="max_runtime"):
        told[0]()


@pytest.mark.parametrize(
    ("cue", "said"), [("deadline", DeadlineReached), ("idle", GpuIdle)], ids=["deadline", "idle"]
)
@pytest.mark.parametrize(
    "own", [JobExited("sys.exit(1)", 1), ValueError("half an epoch")], ids=["exited", "raised"]
)
def test_what_a_function_makes_of_its_cue_to_end_is_not_what_ended_it(
    attendance: Attendance,
    monkeypatch: pytest.MonkeyPatch,
    cue: Literal["deadline", "idle"],
    said: type[DayflyError],
    own: Exception,
) -> None:
    """An exit, or an exception of its own, as trainers turn the interrupt into, is the cause of the error that names the
    limit; another attempt would pay for the same end."""

    def fail(*_: object, **__: object) -> Any:
        raise own

    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {"outcome": "of its own"})
    monkeypatch.setattr("dayfly.runtime.stored.value", fail)
    far = Cued()
    far.cue = cue
    with pytest.raises(said, match=r"max_runtime|GPU 0 was idle") as raised:
        attendance.finish(far)  # type: ignore[arg-type]
    assert raised.value.__cause__ is own
    assert not _worth_another(raised.value)
    # Whoever asks later gets the same.
    with pytest.raises(said) as later:
        stored_result(attendance.history)
    assert later.value.__cause__ is own


def test_a_value_that_cannot_be_loaded_here_is_no_matter_of_the_deadline(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function took its cue and returned; nor is a result that is not authentic."""
    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {"outcome": "value"})
    for trouble in (ImportError("not installed here"), Forged("another's")):

        def fail(*_: object, trouble: Exception = trouble, **__: object) -> Any:
            raise trouble

        monkeypatch.setattr("dayfly.runtime.stored.value", fail)
        with pytest.raises(type(trouble)):
            attendance.finish(Cued())  # type: ignore[arg-type]


def test_a_longer_grace_is_taken_from_the_functions_own_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves comes home before the machine ends all the same; where little is left, half of that is its grace."""

    def attended(**options: Any) -> Attendance:
        attendance = Attendance(Display.silent())
        run = opened(workspace, spec=Spec(max_runtime="2h", **options))
        attendance.run_stack = SimpleNamespace(directory=workspace.directory(run))  # type: ignore[assignment]
        return attendance

    usual, longer = attended(), attended(grace="5m")
    assert (usual.grace_s, longer.grace_s) == (10.0, 300.0)
    assert usual.function_limit_s - longer.function_limit_s == pytest.approx(290.0, abs=5.0)
    monkeypatch.setattr(Attendance, "remaining_s", 100.0)
    assert (usual.function_limit_s, usual.grace_s) == (90.0, 10.0)
    assert (longer.function_limit_s, longer.grace_s) == (50.0, 50.0)


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
    no_value(monkeypatch)
    far = Far(**{act: RunFailed("OSError: [Errno 28] No space left on device")})
    assert attendance.finish(far) == b"value"  # type: ignore[arg-type]
    assert far.asked[-1] == "acknowledge"
    assert attendance.history.last("acknowledged") is not None


def test_a_machine_that_went_with_its_outputs_does_not_cost_the_result(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is here, and the message says so; the journal has how much came, and nothing is tried again for it."""
    no_value(monkeypatch)
    monkeypatch.setattr(Attendance, "machine_runs", lambda _: False)
    with pytest.raises(OutputsFailed, match=r"none came.*dayfly result"):
        attendance.finish(Far(transfer=InstanceLost("gone", "preempted")))  # type: ignore[arg-type]
    assert not attendance.run_stack.left  # type: ignore[union-attr]
    assert (attendance.directory / "result.sealed").exists()
    assert attendance.history.field("outputs", "complete") is False
    assert attendance.history.last("acknowledged") is None


def test_outputs_that_are_here_are_not_asked_for_again(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a client that comes after the keeper; the keeper itself asks for them."""
    no_value(monkeypatch)
    held = Far(transfer=ConnectFailed("not now"))
    held.status = lambda: SimpleNamespace(state="ended", end=END)  # type: ignore[method-assign]
    with pytest.raises(ConnectFailed):
        attendance.hold(held, with_log=False)  # type: ignore[arg-type]
    assert attendance.history.last("held") is None
    del held.failures["transfer"]
    attendance.hold(held, with_log=False)  # type: ignore[arg-type]
    assert held.asked[-2:] == ["transfer", "transfer"]
    far = Far()
    attendance.finish(far)  # type: ignore[arg-type]
    assert "transfer" not in far.asked


def test_a_stop_while_outputs_come_ends_that(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a function that was stopped before do come."""
    no_value(monkeypatch)

    class Sending(Far):
        def transfer(self, act: Any) -> None:
            attendance._stopping.set()
            act(self, lambda: None)

        def stream(self, head: dict[str, Any], body: bytes = b"") -> Any:
            if head["op"] == "outputs":
                yield {"entries": 1}, b'[["a", "file", 3, 420, 1, ""]]'
                return
            yield {"file": 0, "offset": 0, "digest": hashlib.sha256(b"abc").hexdigest()}, b"abc"

    with pytest.raises(JobStopped):
        attendance.finish(Sending())  # type: ignore[arg-type]
    assert not attendance.run_stack.left  # type: ignore[union-attr]
    attendance.finish(Sending())  # type: ignore[arg-type]
    assert (attendance.directory / "outputs" / "a").read_bytes() == b"abc"
    assert attendance.history.field("outputs", "count") == 1


def test_a_log_that_cannot_be_masked_stays_there(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the result comes."""
    no_value(monkeypatch)
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


def test_a_run_that_is_let_go_of_is_left_to_the_keeper(
    attendance: Attendance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was under way: its machine stays up, and the journal says that it was wished for."""
    monkeypatch.setattr(Attendance, "entrust", lambda *_: journal.myself())
    far = Far(fetch_result=InstanceLost("the session is closed"))
    attendance._session, attendance._following = far, True  # type: ignore[assignment]
    attendance.detach()
    assert far.asked == ["close"]
    with pytest.raises(Detached, match="dayfly attach"):
        attendance.finish(far)  # type: ignore[arg-type]
    assert attendance.run_stack.left  # type: ignore[union-attr]
    assert attendance.history.field("detached", "wished")


def test_without_a_keeper_nobody_lets_go(attendance: Attendance) -> None:
    """The function is followed as before."""
    far = Far()
    attendance._session, attendance._following = far, True  # type: ignore[assignment]
    with pytest.raises(KeeperMissing, match="cannot be detached"):
        attendance.detach()
    assert far.asked == []
    assert not attendance._detaching.is_set()
