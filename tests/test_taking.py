"""A client that would take another home's run in hand leaves it as it was where it is refused, and one that is taken from lets go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dayfly.errors import (
    BackendFailed,
    ConnectFailed,
    DayflyError,
    InstanceLost,
    ResultFailed,
    RunBusy,
    RunFailed,
    TakenOver,
    UnknownRun,
)
from dayfly.runtime import attach, taking
from dayfly.runtime.attend import Attendance
from dayfly.runtime.display import Display
from dayfly.runtime.taking import Taking
from dayfly.stacks import hands, journal
from dayfly.stacks.beside import Beside
from dayfly.stacks.journal import History
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import in_other_home
from dayfly.stacks.workspace import Workspace
from tests import homes
from tests.test_attend import Far
from tests.test_hands import brought, held, here, there

__all__ = ["here", "there"]


def attending(history: History, home: Workspace) -> Attendance:
    """A client that has written down that it has the run in hand."""
    mine = journal.whose(history.directory)
    journal.append(history.directory, "attached", client=journal.myself(), **mine)
    attendance = Attendance(Display.silent())
    attendance.run_stack = RunStack.resume(history, home, None)
    return attendance


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of stacks that would have been destroyed."""
    closed: list[str] = []

    def close(stack: RunStack) -> None:
        stack.leave_open()
        closed.append(stack.id)

    monkeypatch.setattr(RunStack, "close", close)
    return closed


class Machine(Far):
    """A far end that says whose the run is."""

    def __init__(self, whose: dict[str, Any] | None = None, **failures: Exception) -> None:
        super().__init__(**failures)
        self._whose = whose

    def hand(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._act("hand", self._whose)
        return found

    def take(self, named: str, client: dict[str, Any], *, force: bool) -> None:
        self._act("take")


def meeting(far: Machine | Exception) -> Callable[..., Any]:
    """What gives the session with it, or fails."""

    @contextlib.contextmanager
    def session(*_: object, **__: object) -> Iterator[Any]:
        if isinstance(far, Exception):
            raise far
        yield far

    return session


def _takes(attendance: Attendance, wanted: Taking) -> None:
    machine = attendance.history.machine
    assert machine is not None
    with attendance.stack(attendance.run_stack), attach._session(machine, attendance, wanted):  # type: ignore[arg-type]
        pass


def test_a_run_that_a_client_follows_is_given_back(
    here: Workspace, there: Workspace, closing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the home that it was in, by its journal; and the message has both ways on."""
    theirs = brought(held(here), there)
    attendance = attending(theirs, there)
    monkeypatch.setattr(attendance, "session", meeting(Machine(take=RunBusy("right now"))))
    with pytest.raises(RunBusy, match=rf"dayfly attach --take {theirs.id[:12]}.*dayfly logs -f"):
        _takes(attendance, Taking(theirs, elsewhere=True, force=False))
    assert attendance.history.field("attached", "home") == here.identity
    assert in_other_home(attendance.history)
    assert closing == []


def test_a_run_whose_result_is_fetched_is_where_the_machine_says(
    here: Workspace, there: Workspace, closing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the home that has started it: its own journal did not know."""
    mine = held(here)
    attendance = attending(mine, here)
    far = Machine(homes.hand(there), take=TakenOver("somebody has fetched its result"))
    monkeypatch.setattr(attendance, "session", meeting(far))
    with pytest.raises(TakenOver, match=r"dayfly result .* on elsewhere\.example"):
        _takes(attendance, Taking(mine, elsewhere=False, force=False))
    assert attendance.history.field("attached", "home") == there.identity
    assert closing == []


@pytest.mark.parametrize(
    "trouble",
    [ConnectFailed("no route"), InstanceLost("the session is closed"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_keeps_a_run_from_being_taken_destroys_nothing(
    here: Workspace,
    there: Workspace,
    closing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    trouble: BaseException,
) -> None:
    """It is another computer's; and where its firewall may be the reason, that is said."""
    mine = held(here)
    machine = mine.last("machine")
    assert machine is not None
    spec = {**mine.intent["spec"], "allow_cidr": "203.0.113.7/32"}
    journal.append(mine.directory, "intent", **{**mine.intent, "spec": spec})
    journal.append(mine.directory, "machine", **machine.fields, firewall="203.0.113.7/32")
    theirs = brought(journal.read(mine.directory), there)
    attendance = attending(theirs, there)

    def session(*_: object, **__: object) -> Any:
        raise trouble

    monkeypatch.setattr(attendance, "session", session)
    with pytest.raises(type(trouble)) as raised:
        _takes(attendance, Taking(theirs, elsewhere=True, force=False))
    if isinstance(trouble, ConnectFailed):
        assert "lets in 203.0.113.7/32 only: `allow_cidr`" in str(raised.value)
        assert "Nothing was changed" in str(raised.value)
    assert attendance.history.field("attached", "home") == here.identity
    assert closing == []


def test_a_machine_that_cannot_take_it_in_is_left_up_with_what_is_on_it(
    here: Workspace, closing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk there is no reason to destroy what waits there."""
    mine = held(here)
    attendance = attending(mine, here)
    monkeypatch.setattr(attendance, "session", meeting(Machine(take=RunFailed("No space left"))))
    monkeypatch.setattr(Attendance, "machine_runs", lambda _: True)
    monkeypatch.setattr(Attendance, "entrust", lambda *_: None)
    with pytest.raises(ResultFailed, match="dayfly attach"):
        _takes(attendance, Taking(mine, elsewhere=False, force=False))
    assert closing == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_that_another_home_has_ended_meanwhile_says_so(
    here: Workspace, closing: list[str], monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """Its machine is gone, and nothing of it is kept: that is no loss, and nothing is in hand any more."""

    def gone(_beside: Beside, _run: str) -> None:
        raise UnknownRun("gone")

    mine = held(here)
    attendance = attending(mine, here)
    monkeypatch.setattr(attendance, "session", meeting(ConnectFailed("refused")))
    monkeypatch.setattr(Attendance, "machine_runs", lambda _: False)
    monkeypatch.setattr(Beside, "fetch", gone)
    with pytest.raises(TakenOver, match="its log and its value are there"):
        _takes(attendance, Taking(mine, elsewhere=elsewhere, force=False))
    # What is left of it here is its journal, which is closed.
    assert closing == [mine.id]
    assert attendance.history.field("attached", "closed")


def test_a_run_that_another_home_is_ending_is_left_to_it(
    here: Workspace, there: Workspace, closing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine is gone, and that home has not closed it yet: to try again would be to run it twice."""
    mine = held(here)
    attendance = attending(mine, here)
    journal.append(mine.directory, "session_kept")
    monkeypatch.setattr(attendance, "session", meeting(ConnectFailed("refused")))
    monkeypatch.setattr(Attendance, "machine_runs", lambda _: False)
    monkeypatch.setattr(Beside, "hand", lambda *_: homes.hand(there))
    with pytest.raises(TakenOver, match="its log and its value are there"):
        _takes(attendance, Taking(mine, elsewhere=False, force=False))
    assert closing == []
    assert attendance.history.field("attached", "home") == there.identity


def test_what_was_kept_before_a_run_was_taken_back_says_nothing(
    here: Workspace, there: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other home had it then."""
    monkeypatch.setattr(Beside, "hand", lambda *_: homes.hand(there))
    attendance = attending(held(here), here)
    assert not taking.was_ended_elsewhere(attendance)
    assert not in_other_home(attendance.history)


def test_a_run_that_another_process_of_this_home_closes_was_not_ended_elsewhere(
    here: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `dayfly cancel`: that removes what is kept of it, too."""

    def gone(_beside: Beside, _run: str) -> None:
        raise UnknownRun("gone")

    monkeypatch.setattr(Beside, "fetch", gone)
    mine = held(here)
    attendance = attending(mine, here)
    journal.append(mine.directory, "closing", by=journal.myself())
    assert not taking.was_ended_elsewhere(attendance)
    assert not in_other_home(attendance.history)


@pytest.mark.parametrize("act", ["follow", "acknowledge"])
def test_a_client_that_is_taken_from_leaves_the_machine_up(
    here: Workspace,
    there: Workspace,
    closing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    act: str,
) -> None:
    """Whenever it hears of it; its keeper is told by the journal."""
    monkeypatch.setattr("dayfly.runtime.stored.summary", lambda _: {})
    attendance = attending(held(here), here)
    far: Any = Machine(homes.hand(there), **{act: TakenOver("somebody has taken the run in hand")})
    with pytest.raises(TakenOver, match="takes it back"), attendance.stack(attendance.run_stack):  # type: ignore[arg-type]
        attendance._session = far
        attendance.finish(far)
    assert closing == []
    assert attendance.history.last("acknowledged") is None
    assert attendance.history.field("attached", "home") == there.identity


@pytest.mark.parametrize(
    ("far", "kept", "said"),
    [
        (Machine(), None, "settled"),
        (Machine(acknowledge=TakenOver("taken")), None, "lost"),
        (ConnectFailed("no route"), BackendFailed("out of reach"), "nothing"),
        (ConnectFailed("no route"), None, "nothing"),
    ],
)
def test_before_a_run_s_time_is_over_its_machine_is_asked_whose_it_is(
    here: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    far: Machine | Exception,
    kept: DayflyError | None,
    said: str,
) -> None:
    """Where neither that nor the state can be asked, it is as much this home's as it was."""

    def hand(*_: object) -> None:
        if kept is not None:
            raise kept

    monkeypatch.setattr(Beside, "hand", hand)
    attendance = attending(held(here), here)
    monkeypatch.setattr(attendance, "session", meeting(far))
    machine = attendance.history.machine
    assert machine is not None
    assert taking.is_lost(attendance, machine) == (said == "lost")
    assert in_other_home(attendance.history) == (said == "lost")
    assert hands.may_be_anothers(attendance.history) == (said != "settled")


def test_a_run_that_only_this_computer_knows_was_never_ended_elsewhere(
    workspace: Workspace,
) -> None:
    """Nobody is asked."""
    attendance = attending(held(workspace), workspace)
    assert not taking.was_ended_elsewhere(attendance)


def test_a_machine_that_does_not_say_whose_a_run_is_has_said_nothing() -> None:
    """It is for whoever asks to go on without."""
    assert taking.hand_of(SimpleNamespace(hand=lambda: {"home": "x"})) == {"home": "x"}  # type: ignore[arg-type]
    assert taking.hand_of(Machine(hand=InstanceLost("gone"))) is None  # type: ignore[arg-type]
