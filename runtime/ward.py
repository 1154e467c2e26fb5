"""Ward: one run in the keeper's care, and when something is to be done about it. Standard library only."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dayfly.stacks import journal, late_look
from dayfly.stacks.journal import History
from dayfly.stacks.standing import Status, is_elsewhere, is_lent, standing, was_in_hand

_FIRST_S, _MOST_S, _GIVE_UP_S = 2.0, 300.0, 86400.0
# Of the time between two failures no more counts: a computer that slept for a day has not tried for a day.
_COUNTS_S = 600.0
# How long another process may need that has the run locked.
_BUSY_S, _BUSY_CODE = 5.0, 73
_DESTROYED = ("EXPIRED", "ORPHAN")
_LOG_BYTES = 256 << 10


class Act(Protocol):
    """A child process that does something about a run."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, None while it works."""

    def said(self) -> str:
        """What it has printed: when it wants to be started again, or why it failed."""


class Child:
    """`python -m dayfly.runtime.tend RUN`, in a session of its own: it outlives the keeper."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        log = directory / "keeper.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.rename(directory / "keeper.log.1")
        log.touch(mode=0o600)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dayfly.runtime.tend", directory.name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=directory.parent.parent,
                env={**os.environ, **variables},
                start_new_session=True,
                umask=0o077,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def said(self) -> str:
        """One short line, which waits in the pipe."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            # Not to its end: a process that the act has left behind may hold the pipe.
            os.set_blocking(output.fileno(), False)
            return (output.read() or b"").decode(errors="replace").strip()


class Ward:
    """One open run.

    Args:
        directory: the run's own.
        start: starts the act, given the directory and the variables that it is to see.
        jitter: a factor around 1, so that many runs do not come back at once.
    """

    def __init__(
        self,
        directory: Path,
        start: Callable[[Path, Mapping[str, str]], Act] = Child,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.5),  # noqa: S311  # no secret
    ) -> None:
        self.directory = directory
        self.variables: dict[str, str] = {}
        self.failures = 0
        self.last_failure = ""
        self.given_up = False
        self.next = 0.0
        self.act: Act | None = None
        self._start, self._jitter = start, jitter
        self._failed_at = self._failing_s = 0.0
        self._status: Status = "RUNNING"
        self._history = History(directory.name, directory, ())
        self._stamp: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        """The run's id."""
        return self.directory.name

    @property
    def history(self) -> History:
        """What its journal says; read again only when it has grown."""
        try:
            status = (self.directory / journal.FILE).stat()
            stamp = (status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = (0, 0)
        if stamp != self._stamp:
            self._history, self._stamp = journal.read(self.directory), stamp
        return self._history

    def standing(self, now: float) -> tuple[Status, str]:
        """What it is; a journal that somebody has edited must not take the other runs' keeper from them."""
        try:
            status, why = standing(self.history, now)
        except Exception as error:  # noqa: BLE001  # whatever can stand in a file
            return "ORPHAN", f"its journal cannot be understood: {type(error).__name__}: {error}"
        if status == "CLOSED" and late_look.due(self.directory) is not None:
            why += "; its provider is asked once more, since a listing may lag"
        return status, why

    def look(self, now: float) -> None:
        """Collects an act that has ended; starts one where it is time for it."""
        if self.act is not None:
            code = self.act.poll()
            if code is None:
                return
            ended, self.act = self.act, None
            self._judge(code, ended.said(), now)
        if self.is_due(now):
            self._begin(now)

    def is_due(self, now: float) -> bool:
        """Whether something is to be done now."""
        status, _ = self.standing(now)
        if status != self._status:
            # What was put off was put off for what the run was then, and so was what was given up.
            destroys, before = status in _DESTROYED, self._status in _DESTROYED
            self._status = status
            if destroys and not before:
                self.given_up, self.failures = False, 0
            if not self.failures:
                self.next = 0.0
        wanted = status in ("HELD", "EXPIRED", "ORPHAN") or self._is_to_be_looked_at(status, now)
        wanted = wanted or self._is_lent(status)
        return wanted and not self.given_up and now >= self.next

    def _is_to_be_looked_at(self, status: Status, now: float) -> bool:
        at = late_look.due(self.directory) if status == "CLOSED" else None
        return at is not None and now >= at

    def _is_lent(self, status: Status) -> bool:
        try:
            return is_lent(self.history, status)
        except Exception:  # noqa: BLE001  # whatever can stand in a file
            return False

    def _is_anothers(self, now: float) -> bool:
        try:
            elsewhere = is_elsewhere(self.history) and not was_in_hand(self.history)
            return elsewhere and self.standing(now)[0] == "RUNNING"
        except Exception:  # noqa: BLE001  # as above
            return False

    def needs_keeper(self, now: float) -> bool:
        """Whether anything may still be to do about it here: one whose result cannot be fetched has a deadline all the same."""
        over = self.given_up and self.standing(now)[0] != "HELD"
        return not over and not self._is_anothers(now)

    def entrust(self, variables: Mapping[str, str], *, own: bool = True) -> None:
        """Takes what the acts are to see; a client has just come by, so what was put off is tried again.

        Args:
            variables: names and values.
            own: they are of the run's own client. Another's, who may have another account, only fill in what is
                missing, unless what is there does not work.
        """
        replace = own or self.failures > 0
        self.variables = (
            {**self.variables, **variables} if replace else {**variables, **self.variables}
        )
        self.given_up, self.failures, self.next = False, 0, 0.0

    def as_dict(self, now: float) -> dict[str, Any]:
        """For `dayfly keeper status`; names of variables, never their values."""
        status, why = self.standing(now)
        return {
            "id": self.id,
            "status": status,
            "why": why,
            "acting": self.act.pid if self.act else None,
            "next": self.next or None,
            "failures": self.failures,
            "last_failure": self.last_failure or None,
            "given_up": self.given_up,
            "variables": sorted(self.variables),
        }

    def _begin(self, now: float) -> None:
        try:
            self.act = self._start(self.directory, self.variables)
        except OSError as error:
            gone = (
                "" if Path(sys.executable).exists() else "; the interpreter of the keeper is gone"
            )
            self._failed(f"nothing can be started here: {error}{gone}", now)

    def _judge(self, code: int, said: str, now: float) -> None:
        if code == 0:
            self.failures, self.last_failure = 0, ""
            self.next = _asked_for(said) or now + _BUSY_S
        elif code == _BUSY_CODE:
            self.next = now + _BUSY_S
        else:
            self._failed(said or f"it ended with {code}; {self.directory / 'keeper.log'}", now)

    def _failed(self, reason: str, now: float) -> None:
        if not self.failures:
            self._failing_s, self._failed_at = 0.0, now
        self._failing_s += min(max(0.0, now - self._failed_at), _COUNTS_S)
        self._failed_at = now
        self.failures += 1
        self.last_failure = reason
        delay = min(_MOST_S, _FIRST_S * 2.0 ** min(self.failures - 1, 20)) * self._jitter()
        self.next = now + delay
        self.given_up = self._failing_s >= _GIVE_UP_S
        self._note(reason)

    def _note(self, reason: str) -> None:
        event = "keeper_gave_up" if self.given_up else "keeper_failed"
        again = None if self.given_up else self.next
        try:
            journal.append(
                self.directory, event, message=reason, attempt=self.failures, again=again
            )
        except OSError as error:
            # A disk that is full must not end the one who frees it.
            self.last_failure = f"{reason}; nor can the journal be written: {error}"


def _asked_for(said: str) -> float | None:
    """When an act that went well wants to be started again, as unix time."""
    try:
        again = json.loads(said)["next"]
    except (ValueError, KeyError, TypeError):
        return None
    return None if again is None else float(again)


def stamp(now: float) -> str:
    """For the keeper's log."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
