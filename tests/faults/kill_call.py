"""Call: one client at work, everything of ours that works for its run, and the stroke that ends some of that."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import keepers
from tests.faults import left

_SIGNALLED_S = 10.0
_SCAN_S = 0.05
_AND = " and "


@dataclass(frozen=True)
class Call:
    """One client at work."""

    home: Path
    seed: int
    process: subprocess.Popen[bytes]
    run: str

    @property
    def log(self) -> Path:
        """What the client says."""
        return self.home / f"client.{self.seed}.log"

    def targets(self) -> dict[str, list[psutil.Process]]:
        """Everything of ours that works for the run and is not its machine, by what it is."""
        found: dict[str, list[psutil.Process]] = {"client": [psutil.Process(self.process.pid)]}
        # It names no run: it is there for all of its home.
        keeper = keepers.process(self.home)
        if keeper is not None:
            found["keeper"] = [keeper]
        for process, command in left.processes(self.run):
            kind = kind_of(command)
            if kind:
                found.setdefault(kind, []).append(process)
        return found

    def engine(self, wait_s: float) -> list[psutil.Process]:
        """The processes that make the machine, once the last of them has been started; none where that does not come."""
        until = time.monotonic() + wait_s
        while self.process.poll() is None and time.monotonic() < until:
            found = self.targets()
            if "provider process" in found:
                kinds = ("provider process", "CLI", "program")
                return [process for kind in kinds for process in found.get(kind, ())]
            time.sleep(_SCAN_S)
        return []


@dataclass(frozen=True)
class Stroke:
    """Who was killed, and where in its life the run was."""

    whom: str
    point: str


def kind_of(command: list[str]) -> str:
    """What a process of a run is, by its command line; "" for its machine and for commands of users."""
    line = " ".join(command)
    if "dayfly.stacks.program" in line:
        return "program"
    if "pulumi.dynamic" in line or "pulumi-resource-pulumi-python" in line:
        return "provider process"
    if command and Path(command[0]).name == "pulumi":
        return "CLI"
    return "act of the keeper" if "dayfly.runtime.tend" in line else ""


def strike(
    call: Call,
    whom: str,
    point: Callable[[], str],
    chance: random.Random,
    first: Iterable[psutil.Process] = (),
) -> Stroke | None:
    """Stops all that works for a run, looks where that is, kills, and lets the others go on.

    Args:
        call: the client.
        whom: kind of process to kill, or several, "client and keeper"; any one where it is "", or where none of that kind
            is there.
        point: where the run is.
        chance: chooses.
        first: who has to stand still before anybody is looked for, which takes as long as some points last.

    Returns:
        None where the client had ended; nobody was killed then.
    """
    if call.process.poll() is not None:
        return None
    first = [*first]
    client = psutil.Process(call.process.pid)
    _stop([*first, client])
    targets = {} if call.process.poll() is not None else call.targets()
    workers = [each for kind, found in targets.items() if kind != "keeper" for each in found]
    try:
        if not targets:
            return None
        _stop(workers)
        where = point()
        if whom != "all" and not set(whom.split(_AND)) & targets.keys():
            whom = chance.choice(["client", "all", *sorted(targets.keys() - {"client"})])
        kinds = targets.keys() if whom == "all" else whom.split(_AND)
        chosen = [found for kind, found in targets.items() if kind in kinds]
        _kill([process for found in chosen for process in found])
        return Stroke(whom, where)
    finally:
        for process in (*first, client, *workers):
            with contextlib.suppress(psutil.Error):
                process.resume()


def _stop(processes: Sequence[psutil.Process]) -> None:
    """Returns when each stands still, or has ended."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    _wait(processes, psutil.STATUS_STOPPED)


def _kill(processes: Sequence[psutil.Process]) -> None:
    """Returns when each has ended: whoever looks for a keeper then finds none."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(processes)


def _wait(processes: Sequence[psutil.Process], *states: str) -> None:
    until = time.monotonic() + _SIGNALLED_S
    for process in processes:
        # One that is gone altogether has no state.
        with contextlib.suppress(psutil.Error):
            while process.status() not in (*states, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                assert time.monotonic() < until, f"{process} takes no signal"
                time.sleep(0.0005)
