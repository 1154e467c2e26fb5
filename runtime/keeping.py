"""Keeping: what `keep=` does on the machine: it is made ready for the call that has taken it, and left for the next one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dayfly.errors import (
    ConnectFailed,
    DataFailed,
    DayflyError,
    EnvironmentFailed,
    InstanceLost,
    JobStopped,
    KeptMachineLost,
    MachineUnfit,
    RunFailed,
)
from dayfly.infra import keep, providers
from dayfly.infra.found import GONE, State
from dayfly.runtime import wording
from dayfly.runtime.attend import CONNECT_S, Attendance
from dayfly.stacks import account, journal, kept
from dayfly.stacks.journal import History
from dayfly.stacks.kept_stack import KeptStack

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

# The keeper, and whoever claims it in the last second, are given so long before the machine ends itself.
_MARGIN_S = 60.0
# It has answered before.
_CONNECT_S = 20.0
_BOUND_S = 20.0
# A call that ended otherwise was ended on purpose, or has taken its machine along.
_ENDED_BY_ITSELF = ("finished", "exited", "killed")


def stack_of(attendance: Attendance) -> KeptStack | None:
    """The stack of a run that keeps machines; None where that of this one goes with it."""
    stack = attendance.run_stack
    return stack if isinstance(stack, KeptStack) else None


def patience_s(attendance: Attendance) -> float:
    """Seconds for which a machine may not answer at first."""
    stack = stack_of(attendance)
    return CONNECT_S if stack is None or stack.host is None else _CONNECT_S


@contextlib.contextmanager
def or_lost(attendance: Attendance) -> Iterator[None]:
    """Around all that is done on a machine that was kept before the function is started there: where that machine is the
    trouble, the call is not at its end.

    Raises:
        KeptMachineLost: it cannot be used.
    """
    stack = stack_of(attendance)
    if stack is None or stack.host is None:
        yield
        return
    _check_alive(stack.host)
    try:
        yield
    except JobStopped:
        raise
    except (ConnectFailed, InstanceLost, MachineUnfit, RunFailed) as trouble:
        if attendance.history.started:
            raise
        raise _lost(stack.host, str(trouble)) from trouble


def _check_alive(host: History) -> None:
    """Asks the provider, which spares waiting for a machine that is gone; it may be out of reach itself."""
    machine = host.machine
    assert machine is not None
    state: State = "unknown"
    with contextlib.suppress(DayflyError):
        account.check(host)
        state = providers.load(machine.provider).instance_state(machine.id)
    if state in GONE:
        raise _lost(host, f"its provider says that it is {state}")


def _lost(host: History, why: str) -> KeptMachineLost:
    return KeptMachineLost(
        f"the machine of run {host.id[:12]}, which was kept for this call, cannot be used: {why}",
        check="kept machine",
        found=why,
    )


def take_over(attendance: Attendance, session: Session) -> None:
    """Has a machine that was kept live as long as it may, and the calls before this one leave nothing there.

    Raises:
        DayflyError: it does not do that.
    """
    stack = stack_of(attendance)
    if stack is None or stack.host is None:
        return
    _arm(session, stack.host, stack.host.deadline)
    before = str(stack.host.field("kept", "after", ""))
    session.clear(before, folder=True, deadline=before != stack.host.id)


@contextlib.contextmanager
def handed_on(attendance: Attendance, session: Session) -> Iterator[None]:
    """Around all that is done on the machine: at the end it is left for the next call, where this one's Spec says so.

    The caller gets the value only then: its next call must find the machine.
    """
    if stack_of(attendance) is None:
        yield
        return
    early, values = attendance.early, list[Callable[[], Any]]()
    if early is not None:
        attendance.early = values.append
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        _leave(attendance, session, error)
        if early is not None:
            for value in values:
                early(value)


def _leave(attendance: Attendance, session: Session, error: BaseException | None) -> None:
    stack = stack_of(attendance)
    if stack is None or attendance.stopping or not stack.needs_closing:
        return
    # A link that breaks now must not keep the value from its caller.
    bound = threading.Timer(_BOUND_S, session.close)
    bound.daemon = True
    bound.start()
    try:
        failed = _has_failed(attendance, error)
        if failed is not None:
            _hand_on(attendance, session, stack, failed=failed)
    except Exception as trouble:  # noqa: BLE001  # leaving destroys it then, as it does without `keep`
        attendance.display.warning(f"its machine is not kept, but destroyed: {trouble}")
    finally:
        bound.cancel()


def _has_failed(attendance: Attendance, error: BaseException | None) -> bool | None:
    """Whether a call has failed that is over; None for one after which nothing may be kept."""
    history = attendance.history
    if isinstance(error, EnvironmentFailed | DataFailed) and not history.started:
        return True
    how = str(history.field("job_ended", "how", ""))
    # With a detail its GPUs had been idle for too long, with a cue it was asked to end.
    asked = history.field("job_ended", "detail") or history.field("job_ended", "cue")
    if history.last("acknowledged") is None or how not in _ENDED_BY_ITSELF or asked:
        return None
    # Of many calls the run itself cannot tell: one that failed may be just what their client was after.
    returned = history.field("result", "outcome") in ("value", "calls")
    return attendance.failed or how != "finished" or not returned


def _hand_on(attendance: Attendance, session: Session, stack: KeptStack, *, failed: bool) -> None:
    host = attendance.history if stack.host is None else stack.host
    until = keep.until(stack.spec.kept, now=time.time(), deadline=host.deadline, failed=failed)
    if until is None:
        return
    attendance.step("keep")
    if attendance.entrust(stack.workspace, host) is None:
        raise RunFailed("no keeper could be started that would end it in time")
    session.clear(stack.id, folder=False, deadline=stack.id != host.id)
    _arm(session, host, min(host.deadline, until + _MARGIN_S))
    owner = stack.hand_on(until, failed=failed)
    if owner is None:
        return
    if attendance.stopping:
        # It came in the same moment, and the keeper ends it.
        journal.append(owner.directory, "cancelled", by=journal.myself())
        return
    attendance.display.kept(said(owner))


def _arm(session: Session, host: History, at: float) -> None:
    provider = providers.load(session.machine.provider)
    session.arm_deadline(
        max(0.0, at - time.time()),
        timer=not provider.same_computer,
        power_off=provider.limits.deadline_action == "poweroff",
        run=host.id,
    )


def said(owner: History) -> str:
    """What becomes of the machine, in one line."""
    until = kept.until(owner) or 0.0
    rate = wording.dollars(float(owner.field("kept", "usd_per_hour", 0.0)))
    failed = ", since the call has failed" if owner.field("kept", "failed") else ""
    run = owner.id[:12]
    return (
        f"until {wording.stamp(until)} for the next call of its Spec{failed}, {rate}/h; `dayfly ssh {run}` is a shell there,"
        f" `dayfly gc --run {run} --yes` ends it now"
    )
