"""How the children of a zygote begin."""

from __future__ import annotations

import functools  # noqa: F401 - this and what else every child needs is imported once, before any of them is forked
import gc
import importlib.util  # noqa: F401
import linecache  # noqa: F401
import mmap  # noqa: F401
import os
import pickle  # noqa: F401
import resource  # noqa: F401
import selectors
import signal
import socket
import sys
import threading  # noqa: F401
import time
import traceback  # noqa: F401

from .call_child import Child
from .call_output import CallLog, Printed
from .digests import new_sha256
from .end_mark import EndMark
from .in_child import refresh_randomness
from .processes import end_process, oom_kills, volunteer_for_oom
from .slate import Slate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from selectors import BaseSelector
    from typing import Any


class Forker:
    """Forks children, each with a channel to the zygote and two files for what it prints.

    Attributes:
        logs: both streams of the run's log, which what they print is passed on to.
    """

    def __init__(
        self,
        folder: str,
        selector: BaseSelector,
        heard: Callable[[Child], None],
        work: Callable[[Any, Slate | None, EndMark], int],
        others: Callable[[], Iterable[Child]],
        *,
        slates: bool,
    ) -> None:
        """Args:
        folder: where what they print lies, without a name.
        heard: called where a child has said something, or has gone.
        work: what a child does with its channel, its slate and the mark of its end, once it has let go of all that is the
            zygote's; gives its exit code.
        others: those that are there, of whose channels a new one gets copies that it must let go of.
        slates: each child has one, which is looked at.
        """
        self._folder, self._selector, self._heard, self._work = folder, selector, heard, work
        self._others, self._slates = others, slates
        self.logs = (CallLog(1), CallLog(2))
        self._counted, self._oom_count = -float("inf"), 0
        # OpenSSL looks for an algorithm when it is first used, which else each child would have it do again.
        new_sha256().digest()

    def fork(self) -> Child:
        opened: list[Any] = []
        try:
            for log in self.logs:
                opened.append(Printed(self._folder, log))
            opened += socket.socketpair()
            slate, mark = Slate() if self._slates else None, EndMark()
            # A collection in the child would copy every page that it only looks at.
            gc.freeze()
            pid = os.fork()
        except OSError:
            for each in opened:
                each.close()
            raise
        printed, ours, theirs = (opened[0], opened[1]), opened[2], opened[3]
        if not pid:
            # The copy of the zygote must never go on as the zygote.
            try:
                ours.close()
                self._become_child(theirs, printed, slate, mark)
            finally:
                os._exit(70)
        theirs.close()
        self._give_group(pid)
        child = Child(pid, ours, printed, None, slate, mark=mark)
        child.oom_before = self._oom_kills_of_late()
        self._selector.register(ours, selectors.EVENT_READ, lambda events: self._heard(child))
        return child

    @staticmethod
    def _give_group(pid: int) -> None:
        """It does so itself, too, whoever is first: its group must be there before it is sent a signal."""
        try:
            os.setpgid(pid, pid)
        except OSError:
            return

    def _oom_kills_of_late(self) -> int:
        """Reading the count takes a tenth of what a fork does, and one of a second ago tells as much."""
        now = time.monotonic()
        if now - self._counted >= 1.0:
            self._counted, self._oom_count = now, oom_kills()
        return self._oom_count

    def _become_child(
        self, channel: Any, printed: tuple[Printed, Printed], slate: Slate | None, mark: EndMark
    ) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for target, stream in zip((1, 2), printed):  # noqa: B905 - 3.8 has no strict
            os.dup2(stream.child_end, target)
            stream.close()
        for child in self._others():
            child.close()
        volunteer_for_oom(700)
        refresh_randomness()
        code = 1
        try:
            code = self._work(channel, slate, mark)
        except BaseException:  # noqa: BLE001 - said on the call's stderr, and the zygote sees the code
            sys.excepthook(*sys.exc_info())
        end_process(code)
