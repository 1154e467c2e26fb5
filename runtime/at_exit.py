"""The end of a process that has jobs: nothing is left unproved, and the exit code says so."""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from dayfly.errors import LeakRisk
from dayfly.runtime.redact import redact_known

if TYPE_CHECKING:
    from dayfly.runtime.job import Job

open_jobs: set[Job[Any]] = set()
leaks: list[LeakRisk] = []
# How jobs have failed whose outcome nobody has asked for, by what stands for the job; no traceback, which would hold arguments.
unheard: dict[object, str] = {}
_interrupted = threading.Event()


def remember(leak: LeakRisk) -> None:
    """From here on the process ends with 75, unless it fails by itself."""
    leaks.append(leak)
    # Only now: whoever holds the built-in function could not pickle it any more.
    sys.exit = _exit


def _wait_for_open_jobs() -> None:
    """The process does not end before every machine is proved gone, or has been left to the keeper."""
    from dayfly.runtime.interrupt import see_out, signals_as_interrupts, stop_and_prove

    jobs = list(open_jobs)
    if not jobs:
        return
    try:
        # The Ctrl-C that ended a program is meant for all that it has started.
        if _ended_by_interrupt():
            with signals_as_interrupts():
                stop_and_prove(jobs)
        else:
            see_out(*jobs)
    except (KeyboardInterrupt, LeakRisk):
        _interrupted.set()


def _ended_by_interrupt() -> bool:
    """Whether the program has ended of one; at a prompt it was only the last command that has."""
    return not hasattr(sys, "ps1") and isinstance(
        getattr(sys, "last_value", None), KeyboardInterrupt
    )


def _tell_unheard() -> bool:
    """Says what would be said nowhere; tells whether that makes a failure of the program, which it does not of a prompt."""
    for text in unheard.values():
        sys.stderr.write(redact_known(text))
    return bool(unheard) and not hasattr(sys, "ps1")


def _exit_code() -> None:
    """75 where a proof failed, 130 after an interrupt, 1 where a job failed that nobody asked, unless the program already fails
    with another code."""
    failed_with = getattr(sys, "last_value", None)
    failed_unheard = _tell_unheard()
    if _ended_by_interrupt():
        _die_of_interrupt()
    if (failed_with is not None and not isinstance(failed_with, LeakRisk)) or _exit.asked:
        return
    code = 130 if _interrupted.is_set() else 1 if failed_unheard else 0
    code = LeakRisk.exit_code if leaks else code
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_of_interrupt() -> None:
    """By the signal, as Python itself does after an interrupt; but it forgets to, and ends with 1, where code has been
    made from text since: of a dataclass, say, in a module that a teardown loads, also one that has been left to the keeper."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


class _Exit:
    """`sys.exit`, remembering that the program has asked for a code of its own: nothing else tells it at the end."""

    __module__ = "sys"

    def __init__(self) -> None:
        self.asked = False
        self.exit = sys.exit

    def __call__(self, status: Any = None, /) -> NoReturn:
        self.asked = status not in (None, 0)
        self.exit(status)

    def __reduce__(self) -> str:
        return "exit"


def _forget_in_child() -> None:
    """A forked child has none of our threads, and nothing to wait for."""
    open_jobs.clear()
    leaks.clear()
    unheard.clear()
    _interrupted.clear()


_exit = _Exit()
os.register_at_fork(after_in_child=_forget_in_child)
# As concurrent.futures does: it runs before the interpreter joins its threads, while they can still work. What is registered
# last runs first: open jobs come to their end while pools still take work, which they do not behind the hook of
# concurrent.futures (nor could a job's own thread load that module then); and once more for jobs that a pool's last work began.
threading._register_atexit(_wait_for_open_jobs)  # type: ignore[attr-defined]
importlib.import_module("concurrent.futures.thread")
threading._register_atexit(_wait_for_open_jobs)  # type: ignore[attr-defined]
atexit.register(_exit_code)
