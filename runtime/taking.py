"""Taking: how a client takes a run in hand that another computer may have; the machine lets one home at a time have it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dayfly.errors import ConnectFailed, DayflyError, RunBusy, TakenOver, UnknownRun
from dayfly.stacks import engine, hands, journal
from dayfly.stacks.beside import Beside, is_wanted
from dayfly.stacks.journal import History

if TYPE_CHECKING:
    from dayfly.infra.machine import Machine
    from dayfly.runtime.attend import Attendance
    from dayfly.runtime.session import Session

# A machine that has been there for long answers soon, or not at all.
_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Taking:
    """One client's attempt, of which the journal says already that it has the run in hand: were it to die in between, its
    keeper asks the machine whose the run is.

    Attributes:
        history: the journal as it was before.
        elsewhere: whether another home had the run in hand; until it is taken nothing of it is destroyed then.
        force: also from a client that follows it right now.
    """

    history: History
    elsewhere: bool
    force: bool

    def take(self, attendance: Attendance, session: Session) -> None:
        """Has the machine refuse every other home from now on.

        Raises:
            RunBusy: a client of another home follows it right now.
            TakenOver: another home has fetched the result, and destroys the machine.
            ConnectFailed: it does not answer, or cannot do that.
        """
        assert attendance.run_stack is not None
        me = journal.myself()
        named = f"{attendance.run_stack.workspace.owner} on {me['host']}"
        try:
            session.take(named, me, force=self.force)
        except (TakenOver, RunBusy) as refused:
            hand = hand_of(session)
            self.give_back(attendance, hand)
            raise self._refused(refused, hand) from None
        except DayflyError as trouble:
            if attendance.stopping:
                raise
            raise ConnectFailed(f"the machine does not take it in hand: {trouble}") from trouble

    def explained(self, error: BaseException) -> BaseException:
        """Why the run of another home could not be taken; itself where there is nothing to add."""
        if not isinstance(error, ConnectFailed):
            return error
        run, wall = self.history.id[:12], self.history.field("machine", "firewall")
        # Where the call does not say who may come, its firewall has been told of this computer.
        said = self.history.intent.get("spec", {}).get("allow_cidr") is not None
        hint = (
            f" Its firewall lets in {wall} only: `allow_cidr` of the call has to take in both computers."
            if wall and said
            else ""
        )
        return ConnectFailed(
            f"run {run}: {error}.{hint} Nothing was changed: its computer, {self._host(None)}, has it in hand as before"
        )

    def give_back(self, attendance: Attendance, hand: Mapping[str, Any] | None = None) -> None:
        """Leaves the run, and its machine, in the hands that it was in, or that the machine says it is in."""
        assert attendance.run_stack is not None
        attendance.run_stack.leave_open()
        before = self.history.turn
        if hand is None and before is not None:
            fields = before.fields
            client = fields.get("by") if before.name == "detached" else fields.get("client")
            hand = {"home": fields.get("home"), "client": client}
        hands.note(attendance.directory, hand)

    def _refused(self, refused: DayflyError, hand: Mapping[str, Any] | None) -> RunBusy | TakenOver:
        run, host = self.history.id[:12], self._host(hand)
        if isinstance(refused, RunBusy):
            return RunBusy(
                f"a client on {host} follows run {run} right now: `dayfly attach --take {run}` takes it from there,"
                f" `dayfly logs -f {run}` only watches"
            )
        return TakenOver(f"run {run}: {refused}: `dayfly result {run}` on {host} has its value")

    def _host(self, hand: Mapping[str, Any] | None) -> str:
        last = self.history.turn
        fields = {} if last is None else last.fields
        client = (hand or {}).get("client") or fields.get("client") or fields.get("by") or {}
        return str(client.get("host", "another computer"))


def hand_of(session: Session) -> dict[str, Any] | None:
    """Who has taken a run in hand, as its machine says; None where nobody has, or it does not say."""
    with contextlib.suppress(DayflyError):
        return session.hand()
    return None


def is_lost(attendance: Attendance, machine: Machine) -> bool:
    """Whether a run whose time is over here, or whose result is, has been taken in hand by another home; from now on none
    can take it where it was not.

    The machine says so; where it cannot be reached, what is kept beside the state does, and where that cannot be read either
    the run is as much this home's as it was.
    """
    with (
        contextlib.suppress(DayflyError, OSError),
        attendance.session(machine, connect_timeout_s=_PATIENCE_S, kept=False) as session,
    ):
        try:
            session.acknowledge()
        except TakenOver:
            hands.note(attendance.directory, hand_of(session))
            return True
        hands.settle(attendance.directory)
        return False
    assert attendance.run_stack is not None
    beside = Beside(attendance.run_stack.workspace, engine.find())
    return hands.is_anothers_by_state(attendance.history, beside)


def was_ended_elsewhere(attendance: Attendance) -> bool:
    """Whether a run whose machine is gone was taken in hand by another home: nothing of it is kept any more, or what is
    says so, and that home is closing it; then it is left to that one."""
    history = attendance.history
    if not is_wanted(history) or history.last("session_kept") is None:
        return False
    if history.closed or history.last("closing") is not None:
        return False  # By another process of this home.
    assert attendance.run_stack is not None
    with contextlib.suppress(DayflyError, OSError):
        try:
            hand = Beside(attendance.run_stack.workspace, engine.find()).hand(history.directory)
        except UnknownRun:
            hands.note(attendance.directory, None, closed=True)
            return True
        # What was kept before this home has taken it back says nothing.
        newest = history.last("session_kept", "attached")
        up_to_date = newest is not None and newest.name == "session_kept"
        if up_to_date and hands.is_anothers(history, hand):
            hands.note(attendance.directory, hand)
            attendance.run_stack.leave_open()
            return True
    return False


def ended_elsewhere(run_id: str) -> TakenOver:
    """What the client of such a run is told."""
    return TakenOver(
        f"run {run_id}: another computer has taken it in hand, and has ended its machine: its log and its value are there"
    )
