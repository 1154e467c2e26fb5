"""What the keeper has done about one run, in a process of its own: `python -m dayfly.runtime.tend RUN`.

It prints one line of JSON: {"next": unix time}, when it wants to be started again, or {"next": null}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dayfly.errors import ConnectFailed, DayflyError, RunBusy, RunFailed, TakenOver
from dayfly.infra import providers
from dayfly.infra.found import LOST
from dayfly.runtime import admission, drift, redact, stopping
from dayfly.runtime.attend import Attendance
from dayfly.runtime.context import Context
from dayfly.runtime.deposit import not_kept
from dayfly.runtime.display import Display
from dayfly.runtime.taking import is_lost
from dayfly.stacks import account, gc, hands, journal, late_look
from dayfly.stacks.absence import places_of
from dayfly.stacks.beside import Beside, is_wanted
from dayfly.stacks.census import Finding
from dayfly.stacks.journal import History
from dayfly.stacks.run_lock import locked
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import hold_until, is_lent, standing

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

# A job that has run for long is looked at less often; nothing is lost by that but the wait.
_LEAST_S, _MOST_S, _SHARE = 2.0, 60.0, 0.05
# A client that died in the moment of starting the job may have a word under way to the machine.
_START_S = 30.0
_BUSY_S = 10.0
# Longer waits are the keeper's, which looks again so often: each act is an interpreter in memory.
_WAIT_S = 60.0
# What another home has in hand is that one's; that it is over is no news of great haste.
_LENT_S = 60.0
# The machine has booted long ago; one that does not answer is asked for at its provider, and tried again later.
_CONNECT_S = 15.0


class _Later(BaseException):
    """No failure: the proof has to wait for long, and this process is not needed for that."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"waiting {seconds:.0f} s")
        # What comes late is ended when it is seen, not when the last one could have come.
        self.until = time.time() + min(seconds, _WAIT_S)


def tend(context: Context, run_id: str, report: Callable[[str], None]) -> float | None:
    """Does what one run needs now.

    Returns:
        Unix time at which to look again; None where only a change of its journal can make anything to do.

    Raises:
        LeakRisk: it was to be destroyed, and absence could not be proved.
        RunBusy: somebody else is at it.
        DayflyError: it cannot be reached now, or its provider cannot.
    """
    history = journal.read(context.workspace.directory(run_id))
    status, why = standing(history, time.time())
    report(f"{status}: {why}")
    if status == "EXPIRED" and _is_anothers(context, history):
        report("another computer has taken it in hand")
        return None
    if status == "ORPHAN" and stopping.is_due(history):
        if stopping.is_under_way(history):
            return time.time() + _LEAST_S
        stopping.stop(gc.as_launched(context.workspace, history), history, report)
    if status in ("EXPIRED", "ORPHAN"):
        return _destroyed(context, history, report)
    if status == "HELD":
        return _hold(context, history, report)
    if is_lent(history, status):
        return _lent(context, history)
    if status == "CLOSED" and late_look.due(history.directory) is not None:
        _look_again(context, history, report)
    return None


def _is_anothers(context: Context, history: History) -> bool:
    """Whether the time of a run is over by this home's journal alone, and another home has it in hand."""
    machine = history.machine
    if machine is None or not hands.may_be_anothers(history):
        return False
    with locked(history.directory, wait_s=_BUSY_S):
        return is_lost(_attendance(context, history), machine)


def _lent(context: Context, history: History) -> float:
    """Finds out whether the home that has taken it in hand has closed it: its machine is gone then, and nothing of it is kept."""
    with contextlib.suppress(DayflyError):
        states = [drift.state_now(history, machine.id) for machine in history.machines]
        if all(state in LOST for state in states):
            _note_others(context, history)
    return time.time() + _LENT_S


def _attendance(context: Context, history: History) -> Attendance:
    attendance = Attendance(Display.silent())
    workspace = gc.as_launched(context.workspace, history)
    attendance.run_stack = RunStack.resume(history, workspace, None)
    return attendance


def _look_again(context: Context, history: History, report: Callable[[str], None]) -> None:
    """Ends what no listing could show before the run was closed."""
    account.check(history)
    provider = providers.load(history.provider)
    owner = str(history.intent.get("owner", context.workspace.owner))
    late = tuple(provider.left_of(history.id, owner, places_of(history)))
    report(f"late look: {len(late)} found")
    if late:
        finding = Finding(history.id, "ORPHAN", "", provider.name, found=late, owner=owner)
        gc.destroy(context.workspace, context.engine_or_none(), finding, report)
    late_look.done(history.directory)


def _destroyed(context: Context, history: History, report: Callable[[str], None]) -> float | None:
    """Destroys and proves; a wait of minutes, for a launch that was never answered, is left to the keeper."""
    finding = Finding(history.id, "ORPHAN", "", history.provider, history=history)
    engine = context.engine_or_none()
    try:
        gc.destroy(context.workspace, engine, finding, report, linger=_leave)
    except _Later as later:
        return later.until
    return None


def _leave(seconds: float) -> None:
    if seconds > _WAIT_S:
        raise _Later(seconds)


def _hold(context: Context, history: History, report: Callable[[str], None]) -> float | None:
    """Brings home what the function has left, once it has ended."""
    # Whoever attaches waits for this, so it is not kept while there is nothing to do.
    with locked(history.directory, wait_s=_BUSY_S):
        history = journal.read(history.directory)
        if standing(history, time.time())[0] != "HELD":
            return time.time()
        if history.last("held") is not None:
            return hold_until(history)
        try:
            return _fetched(context, history, report)
        except TakenOver:
            return time.time()
        except RunFailed as absent:
            return _never_started(history, absent)
        except (ConnectFailed, OSError) as trouble:
            again = _unreachable(history, trouble, report)
            _note_others(context, history)
            return again


def _fetched(context: Context, history: History, report: Callable[[str], None]) -> float:
    machine = history.machine
    if machine is None:
        raise RunFailed("it has no machine")
    attendance = _attendance(context, history)
    unset = redact.remember_variables(history.secrets)
    with attendance.session(machine, connect_timeout_s=_CONNECT_S, kept=False) as session:
        _check_hand(history, session, report)
        try:
            end = attendance.hold(session, with_log=not unset)
        except TakenOver:
            _check_hand(history, session, report)
            raise
    if end is None:
        report("its function runs")
        _deposit(context, history, report)
        return _next_look(history, time.time())
    report(f"its function {end.how}; what it left is here")
    history = journal.read(history.directory)
    return time.time() if history.last("acknowledged") is not None else hold_until(history)


def _check_hand(history: History, session: Session, report: Callable[[str], None]) -> None:
    """Leaves alone what another home has taken in hand, and writes that down.

    Raises:
        TakenOver: one has.
    """
    if not is_wanted(history):
        return
    try:
        hand = session.hand()
    except DayflyError as silent:
        raise ConnectFailed(f"the machine does not say whose the run is: {silent}") from silent
    if hands.is_anothers(history, hand):
        hands.note(history.directory, hand or _first_hand(history))
        report("another computer has taken it in hand")
        raise TakenOver("another computer has it in hand")


def _first_hand(history: History) -> dict[str, Any]:
    """That of the home which has started it, where no other has taken it."""
    return {"home": history.intent.get("home"), "client": history.intent.get("client")}


def _deposit(context: Context, history: History, report: Callable[[str], None]) -> None:
    """Does for other computers what the client died before, once."""
    if not is_wanted(history) or history.last("session_kept", "session_not_kept") is not None:
        return
    beside = Beside(gc.as_launched(context.workspace, history), context.engine_or_none())
    try:
        beside.keep(history.directory)
    except (DayflyError, OSError) as trouble:
        report(f"other computers cannot attach to it: {trouble}")
        not_kept(history.directory, trouble)


def _note_others(context: Context, history: History) -> None:
    """Finds out whether it was another home that has ended a machine which is gone."""
    if is_wanted(history):
        workspace = gc.as_launched(context.workspace, history)
        hands.is_anothers_by_state(history, Beside(workspace, context.engine_or_none()))


def _next_look(history: History, now: float) -> float:
    """The longer it has run, the later; but once more before the machine's deadline, when its function has been ended."""
    started = history.last("job_started")
    elapsed = now - started.time if started else 0.0
    soon = now + min(_MOST_S, max(_LEAST_S, elapsed * _SHARE))
    created = float(history.intent.get("created") or now)
    # As Attendance.function_limit_s, at the latest that it can be.
    last = history.deadline - min(60.0, 0.1 * (history.deadline - created)) * 0.8
    return min(soon, last) if now < last else soon


def _never_started(history: History, absent: RunFailed) -> float:
    started = history.last("job_started")
    now = time.time()
    if started is not None and now - started.time < _START_S:
        return now + _LEAST_S
    journal.append(history.directory, "never_started", message=str(absent))
    return now


def _unreachable(history: History, trouble: Exception, report: Callable[[str], None]) -> float:
    """As for a client: one that its provider gives up, too, has nothing to hold; one that lives is tried again, later and later,
    or at once where its firewall did not know this computer."""
    for machine in history.machines:
        state = drift.state_now(history, machine.id)
        if state in LOST:
            journal.append(history.directory, "instance_lost", state=state, message=str(trouble))
            return time.time()
    if admission.admit(history, report):
        return time.time() + _LEAST_S
    raise trouble


def main(arguments: list[str]) -> int:
    """One look at one run.

    Returns:
        0; 73 where somebody else is at it; else the code of the error, whose message is printed.
    """
    os.umask(0o077)

    def report(text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        print(redact.redact(f"{stamp} [{os.getpid()}] {text}"), file=sys.stderr, flush=True)

    try:
        again = tend(Context.to_end(report), arguments[0], report)
    except RunBusy as busy:
        report(str(busy))
        return busy.exit_code
    except Exception as error:  # noqa: BLE001  # whatever it was, the keeper must be told, and try again
        report(f"{type(error).__name__}: {error}")
        told = error if isinstance(error, DayflyError) else f"{type(error).__name__}: {error}"
        print(redact.redact(str(told)), flush=True)
        return getattr(error, "exit_code", 1)
    print(json.dumps({"next": again}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
