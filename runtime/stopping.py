"""Stopping: what a run is granted whose end was asked for, before its machine is destroyed: SIGTERM, its grace, and that what
it leaves comes home."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dayfly.errors import DayflyError, InstanceLost, TakenOver
from dayfly.infra.units import human_seconds
from dayfly.runtime import redact
from dayfly.runtime.attend import Attendance, asked_grace_s
from dayfly.runtime.display import Display
from dayfly.stacks import journal, kept
from dayfly.stacks.journal import History
from dayfly.stacks.run_lock import locked
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import in_other_home, is_part_of_another
from dayfly.stacks.workspace import Workspace

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

# The machine has booted long ago: one that does not answer by then is destroyed as it is.
_CONNECT_S = 15.0
# Behind the grace, for the answer.
_ANSWER_S = 10.0
# A client that lives brings home what it waits for; one of another computer, which cannot be seen, is given less.
_CLIENT_S, _OTHERS_S = 300.0, 60.0
# Whoever stops it and is alive for so much longer than its grace hangs, or is stopped itself.
_HANGS_S = 360.0
_LOOK_S = 0.2

Report = Callable[[str], None]


def is_due(history: History, *, requests: int = 1) -> bool:
    """Whether a run whose end is asked for may still leave something.

    Args:
        history: its journal.
        requests: how often its end was asked for; where it was more often, what it would leave was given up with that.
    """
    if history.closed or history.reopened is not None or is_part_of_another(history):
        return False
    if not history.started or history.machine is None or kept.turn(history) is not None:
        return False
    over = ("held", "acknowledged", "never_started", "instance_lost", "closing", "leak_risk")
    last = history.last(*over, "attached")
    return _requests(history) == requests and (last is None or last.name == "attached")


def is_under_way(history: History) -> bool:
    """Whether a process that lives is at it already, as its request says."""
    asked = history.last("cancelled")
    if asked is None or not asked.fields.get("stops"):
        return False
    by = asked.fields.get("by") or {}
    late = time.time() > asked.time + asked_grace_s(history) + _HANGS_S
    return by.get("pid") != os.getpid() and journal.is_alive(by) and not late


def stop(workspace: Workspace, history: History, report: Report) -> None:
    """Has its function end, and what it leaves come home: by its client where that lives, else by this process.

    Whatever does not work is said and no more, and so is an interrupt: behind this the machine is destroyed.

    Args:
        workspace: the one that it was launched with.
        history: its journal, by which this is due.
        report: told each step in a sentence.
    """
    try:
        _Stopping(workspace, history, report).run()
    except KeyboardInterrupt:
        report("interrupted: its machine is destroyed at once, with what had not come home")
    except Exception as trouble:  # noqa: BLE001  # nothing may keep a machine alive that is to end
        report(f"its machine is destroyed with what had not come home: {trouble}")


class _Stopping:
    """One attempt at it."""

    def __init__(self, workspace: Workspace, history: History, report: Report) -> None:
        self._history, self._directory, self._report = history, history.directory, report
        self._attendance = Attendance(Display.silent())
        self._attendance.run_stack = RunStack.resume(history, workspace, None)

    def run(self) -> None:
        machine = self._history.machine
        assert machine is not None
        session = self._attendance.session(machine, connect_timeout_s=_CONNECT_S, kept=False)
        with _Bound(session, self._directory) as bound:
            # As a last resort: the session itself says more of a machine that does not answer.
            bound.grant(_CONNECT_S + _ANSWER_S, "its machine does not answer")
            with session:
                self._end(session, bound)
                self._bring(session, bound)

    def _end(self, session: Session, bound: _Bound) -> None:
        grace_s = asked_grace_s(self._history)
        self._report(
            f"its function is asked to end, and has {human_seconds(grace_s)} for that; once more ends its machine at once"
        )
        bound.grant(grace_s + _ANSWER_S, "its machine does not end the function")
        session.stop()

    def _bring(self, session: Session, bound: _Bound) -> None:
        if self._history.client_alive():
            bound.grant(_CLIENT_S, "its client has not brought it home")
            self._report("its function has ended; its client brings home what it has left")
            if self._is_brought(session):
                return
        bound.grant(math.inf, "")
        self._report("its function has ended; what it has left is brought home")
        try:
            self._hold(session)
        except TakenOver:
            self._report("a client on another computer brings it home")
        turn = self._history.turn
        if in_other_home(self._history) and turn is not None and turn.name != "detached":
            bound.grant(_OTHERS_S, "the other computer has not brought it home")
            with contextlib.suppress(InstanceLost):
                while not session.status().acknowledged:
                    time.sleep(_LOOK_S)

    def _is_brought(self, session: Session) -> bool:
        """Waits for its client; False where that has ended before."""
        while not session.closed:
            now = journal.read(self._directory)
            if now.closed or now.last("acknowledged", "closing") is not None:
                return True
            if not now.client_alive():
                return False
            time.sleep(_LOOK_S)
        raise InstanceLost("it was waited for long enough")

    def _hold(self, session: Session) -> None:
        unset = redact.remember_variables(self._history.secrets)
        if unset:
            self._report(
                f"its log goes with its machine: it may hold {', '.join(unset)}, not set here, so that it cannot be masked"
            )
        # The keeper may be bringing home what ended in the same moment.
        with locked(self._directory):
            if is_due(journal.read(self._directory)):
                self._attendance.hold(session, with_log=not unset)


class _Bound:
    """Closes a session when it has had its time, or when the end of its run is asked for once more.

    Lifecycle: entering watches from a thread, leaving ends that, and says why it has closed the session.
    """

    def __init__(self, session: Session, directory: Path) -> None:
        self._session, self._directory = session, directory
        self._until, self._late = math.inf, ""
        self._why = ""
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._watched, name="dayfly-bound", daemon=True)

    def grant(self, seconds: float, late: str) -> None:
        """From now on it has so long; and what it is when that is over."""
        self._until, self._late = time.monotonic() + seconds, late

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watch.join()
        if self._why and isinstance(error, DayflyError):
            raise InstanceLost(self._why) from error

    def _watched(self) -> None:
        while not self._over.wait(_LOOK_S):
            if _requests(journal.read(self._directory)) > 1:
                self._why = "its end was asked for once more"
            elif time.monotonic() > self._until:
                self._why = self._late
            if self._why:
                self._session.close()
                return


def _requests(history: History) -> int:
    """How often its end was asked for since somebody has last taken it in hand."""
    count = 0
    for event in reversed(history.events):
        if event.name == "attached":
            break
        count += event.name == "cancelled"
    return count
