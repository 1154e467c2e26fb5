"""Code of Dayfly that travels by value: the processes of one machine, one for each slot, how they end, and what they print.

The standard library alone, and the agent that has started the one which forks them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

# Where a process ends so often before it has come up, none will.
FAILURES = 3
# Between two looks at what they print, and at whether one has ended; and where all of them were told to.
_LOOK_S, _PAUSE_S = 0.05, 0.01


def forked(act: Callable[[], None]) -> int:
    """Has a copy of this process do something, and end; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        act()
        code = 0
    except BaseException:  # noqa: BLE001  # said on the log of the machine; the copy must never go on as its parent
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def up_mark(slot: int) -> Path:
    """What the process of a slot makes as soon as it has come up."""
    return Path(f"worker-{slot}.up")


class Processes:
    """Copies of this process, each with a group of its own; the function of a call may start others in it.

    Args:
        agent: the name of its package.
        slots: how many.
        act: what the one of a slot does.
        grace_s: between asking them to end and ending them.
    """

    def __init__(self, agent: str, slots: int, act: Callable[[int], None], grace_s: float) -> None:
        self._slots, self._act, self._grace_s = range(slots), act, grace_s
        self._printing = import_module(f"{agent}.call_output")
        self._logs = self._printing.CallLog(1), self._printing.CallLog(2)
        self._living: dict[int, _Process] = {}

    def keep(self) -> None:
        """Makes one for each slot, and another one where it ends, until this process is told to end.

        Raises:
            RuntimeError: they do not come up, or another child of this process has ended.
        """
        failures = 0
        try:
            while failures < FAILURES:
                self._fill()
                ended = _ended()
                for each in self._living.values():
                    each.relay()
                if not ended:
                    time.sleep(_LOOK_S)
                elif ended not in self._living:
                    raise RuntimeError("the Dask scheduler has ended")
                else:
                    came_up = _came_up(self._living.pop(ended).over())
                    failures = 0 if came_up else failures + 1
        except KeyboardInterrupt:
            return  # As every map ends: nothing to be told.
        finally:
            self._end_all()
        raise RuntimeError("the Dask workers of this machine do not come up; their words are above")

    def _fill(self) -> None:
        used = {each.slot for each in self._living.values()}
        for slot in (slot for slot in self._slots if slot not in used):
            folder, printing = str(Path.cwd()), self._printing
            process = _Process(slot, [printing.Printed(folder, log) for log in self._logs])
            pid = forked(functools.partial(self._become, process))
            self._living[pid] = process
            # It does so itself, too, whoever is first: its group must be there before it is sent a signal.
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)

    def _become(self, process: _Process) -> None:
        os.setpgid(0, 0)
        process.take_streams()
        for other in self._living.values():
            other.close()
        self._act(process.slot)

    def _end_all(self) -> None:
        """SIGTERM, the grace, SIGKILL: calls may be under way."""
        for pid in self._living:
            _signal_group(pid, signal.SIGTERM)
        last = time.monotonic() + self._grace_s
        # One that was reaped just before may be among them.
        with contextlib.suppress(ChildProcessError):
            while self._living and time.monotonic() < last:
                if (ended := _ended()) in self._living:
                    self._living.pop(ended).over()
                time.sleep(_PAUSE_S)
        for pid, process in self._living.items():
            _signal_group(pid, signal.SIGKILL)
            process.over()


class _Process:
    """One of them, and what it prints, which is read here as it grows."""

    def __init__(self, slot: int, printed: Sequence[Any]) -> None:
        self.slot, self._printed = slot, printed

    def take_streams(self) -> None:
        """In itself: what it prints goes there."""
        for target, stream in zip((1, 2), self._printed, strict=True):
            os.dup2(stream.child_end, target)
        self.close()

    def relay(self) -> None:
        """Passes on to the machine's log what is new."""
        for stream in self._printed:
            stream.relay(stream.size(), b"", None)

    def over(self) -> int:
        """It has ended; gives its slot."""
        self.relay()
        self.close()
        return self.slot

    def close(self) -> None:
        """In another process, too, where that are copies."""
        for stream in self._printed:
            stream.close()


def _came_up(slot: int) -> bool:
    mark = up_mark(slot)
    came_up = mark.exists()
    mark.unlink(missing_ok=True)
    return came_up


def _ended() -> int:
    """A child that has ended, with what it has left in its group; 0 where there is none."""
    if hasattr(os, "waitid"):
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if found is None:
            return 0
        # Before it is reaped: until then nobody else can get the number of its group.
        _signal_group(found.si_pid, signal.SIGKILL)
        os.waitpid(found.si_pid, 0)
        return int(found.si_pid)
    pid, _ = os.waitpid(-1, os.WNOHANG)
    if pid:
        _signal_group(pid, signal.SIGKILL)
    return pid


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
