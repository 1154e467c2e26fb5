"""Deposit: while a function runs, what another computer needs to take its run in hand is put beside the state."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from dayfly.errors import DayflyError
from dayfly.stacks import journal
from dayfly.stacks.beside import Beside

# A function that has ended by then has nothing that another computer could attach to, and costs the engine no calls.
_SETTLE_S = 2.0


class Deposit:
    """One client's, of one run.

    Lifecycle: constructing does nothing, `begin` starts a thread that nobody waits for, `over` says that there is nothing
    left to attach to; what is kept is removed by whoever closes the run.

    Args:
        beside: where to.
        directory: the run's own.
        warn: told once that another computer cannot attach, and why.

    Attributes:
        kept: whether another computer can attach now.
    """

    def __init__(self, beside: Beside, directory: Path, warn: Callable[[str], None]) -> None:
        self._beside, self._directory, self._warn = beside, directory, warn
        self._due, self._over, self._done = threading.Event(), threading.Event(), threading.Event()
        self.kept = False

    def begin(self) -> None:
        """In the background, a moment after this."""
        threading.Thread(target=self._run, name="dayfly-deposit", daemon=True).start()

    def over(self) -> None:
        """The function has ended."""
        self._over.set()
        self._due.set()

    def wait(self, timeout_s: float) -> bool:
        """Has it done at once, and waits for it; whether another computer can attach then."""
        self._due.set()
        self._done.wait(timeout_s)
        return self.kept

    def _run(self) -> None:
        try:
            self._due.wait(_SETTLE_S)
            self.kept = self._beside.keep(self._directory, unless=self._over.is_set)
        except (DayflyError, OSError) as trouble:
            not_kept(self._directory, trouble)
            if not self._over.is_set():
                self._warn(
                    f"the run can be attached on this computer only, since nothing could be kept of it elsewhere: {trouble}"
                )
        finally:
            self._done.set()


def not_kept(directory: Path, trouble: Exception) -> None:
    """Journals why another computer cannot attach."""
    # A full disk, or a run that was closed meanwhile.
    with contextlib.suppress(OSError):
        journal.append(directory, "session_not_kept", reason=str(trouble))
