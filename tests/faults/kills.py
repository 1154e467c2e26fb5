"""The kill matrix: SIGKILL for the client in every step of a run's life, then proof that nothing is left or lost.

`campaign` runs the trials and returns a Tally; every moment comes from a printed seed, so that a failure can be had again.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests import keepers
from tests.faults import left
from tests.faults.victim import Victim, started

_RUN_S = 120.0
_LAST_S = 15.0
_POLL_S = 0.0005
_TRIES = 12

VICTIM = Victim(lines=100, pause_s=0.02, size=1 << 23)


@dataclass(frozen=True)
class Window:
    """Where a kill is to land.

    Attributes:
        step: of DESIGN section 3.
        after: the journal's event that opens it.
        width_s: the kill comes at a random moment of so long.
    """

    step: int
    after: str
    width_s: float


WINDOWS = (
    Window(2, "intent", 0.4),
    Window(3, "stack_created", 0.1),
    Window(3, "up_started", 0.8),
    Window(4, "launched", 0.1),
    Window(5, "connected", 0.03),
    Window(6, "job_started", 0.1),
    Window(6, "job_started", 1.8),
    Window(7, "job_ended", 0.1),
    Window(8, "closing", 0.3),
    Window(8, "closing", 1.5),
)
SAMPLE = (WINDOWS[2], WINDOWS[6], WINDOWS[8])
_STEP_OF = {
    "intent": 2,
    "resources": 2,
    "stack_created": 3,
    "up_started": 3,
    "launched": 4,
    "machine": 4,
    "connected": 5,
    "job_started": 6,
    "job_ended": 7,
    "result_fetched": 7,
    "acknowledged": 8,
    "closing": 8,
}


@dataclass(frozen=True)
class Trial:
    """One kill and what was found after it.

    Attributes:
        seed: gives the moment and the value again.
        run: id of the run.
        step: in which the client died.
        started: how often the function started.
        attached: what `dayfly attach` said of it: "value", "never started", "" where it was not asked.
        lost: why its result or its log counts as lost, "" where it is not.
        unaided: before the function could start, the keeper alone has closed the run.
        processes: of the run, alive after that and gc: command lines.
        problems: anything else that should not be.
    """

    seed: int
    run: str
    step: int
    started: int
    attached: str
    lost: str
    unaided: bool
    processes: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass
class Tally:
    """The numbers of a campaign.

    Attributes:
        trials: every kill that counted.
        locks: lock files of the engine that are left.
        pending: operations in states that were begun and never ended.
        open_runs: runs that the journal has open.
        keepers: that go on although nothing is open.
    """

    trials: list[Trial] = field(default_factory=list)
    locks: int = 0
    pending: int = 0
    open_runs: int = 0
    keepers: int = 0

    @property
    def headline(self) -> str:
        """What CI shows."""
        processes = sum(len(trial.processes) for trial in self.trials)
        lost = sum(bool(trial.lost) for trial in self.trials)
        return (
            f"{len(self.trials)} kills, {processes} sshd, {self.locks} locks, {self.pending} pending,"
            f" {lost} results lost"
        )

    @property
    def failures(self) -> list[str]:
        """Everything that is not as promised."""
        found = [f"{self.locks} locks"] * bool(self.locks)
        found += [f"{self.pending} pending operations"] * bool(self.pending)
        found += [f"{self.open_runs} open runs"] * bool(self.open_runs)
        found += [f"{self.keepers} keepers with nothing to keep"] * bool(self.keepers)
        for trial in self.trials:
            where = f"seed {trial.seed}, step {trial.step}, run {trial.run}"
            for problem in (trial.lost, *trial.processes, *trial.problems):
                found += [f"{where}: {problem}"] * bool(problem)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"headline": self.headline, "failures": self.failures, **asdict(self)}


def campaign(
    home: Path,
    windows: Sequence[Window],
    seed: int,
    say: Callable[[str], None],
    victim: Victim = VICTIM,
) -> Tally:
    """Kills one client in each window and closes what it left.

    Args:
        home: an empty state folder, the DAYFLY_HOME of this process's environment.
        windows: where the kills land.
        seed: of the first trial; each one has a seed of its own.
        say: told of each trial.
        victim: what its clients call.
    """
    script = home / "client.py"
    script.write_text(victim.code)
    tally = Tally()
    for number, window in enumerate(windows):
        trial = _trial(home, victim, script, window, seed + number * _TRIES)
        tally.trials.append(trial)
        wrong = [trial.lost] * bool(trial.lost) + [*trial.processes, *trial.problems]
        told = "; ".join(wrong) or "nothing left or lost"
        asked = f", attach: {trial.attached}" if trial.attached else ""
        say(f"seed {trial.seed}: killed in step {trial.step} after {window.after}{asked}; {told}")
    tally.locks, tally.pending = len(left.locks(home)), len(left.pending(home))
    tally.open_runs = len(json.loads(_cli("ps", "--json").stdout))
    if not tally.open_runs:
        tally.keepers = _lasting_keepers(home)
    return tally


def _trial(home: Path, victim: Victim, script: Path, window: Window, seed: int) -> Trial:
    """One kill that landed; a client that was past the window, or had ended, is let go and the trial repeated."""
    for attempt in range(_TRIES):
        moment = seed + attempt
        starts = home / f"starts.{moment}"
        run = _kill(home, script, window, moment, starts)
        if run is not None:
            return _judge(home, victim, run, window.step, seed=moment, starts=starts)
    raise AssertionError(
        f"no kill landed in step {window.step} in {_TRIES} trials from seed {seed}"
    )


def _kill(home: Path, script: Path, window: Window, seed: int, starts: Path) -> str | None:
    """Runs a client and kills it within the window.

    Returns:
        The run's id; None where the moment had passed.
    """
    before = left.runs(home)
    with (home / f"client.{seed}.log").open("wb") as log:
        client = subprocess.Popen(
            [sys.executable, str(script), str(seed), str(starts)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
        )
    try:
        run = _wait_for(home, before, window.after, client)
        time.sleep(random.Random(seed).uniform(0, window.width_s))
        # Stopped, it can be looked at before it is decided whether this moment is the right one.
        client.send_signal(signal.SIGSTOP)
        if client.poll() is None and run and _step(home, run) == window.step:
            client.kill()
            return run
        client.send_signal(signal.SIGCONT)
        client.wait(_RUN_S)
        return None
    finally:
        client.kill()
        client.wait()


def _wait_for(
    home: Path, before: set[str], event: str, client: subprocess.Popen[bytes]
) -> str | None:
    """The new run, once its journal has the event; None where the client ended before."""
    until = time.monotonic() + _RUN_S
    while client.poll() is None and time.monotonic() < until:
        for run in left.runs(home) - before:
            if event in left.events(home, run):
                return run
        time.sleep(_POLL_S)
    return None


def _judge(home: Path, victim: Victim, run: str, step: int, *, seed: int, starts: Path) -> Trial:
    """What a user does after a crash: attach where there may be a result, and nothing where there is none; then gc, which
    must find no more to do; and what is left after that."""
    attached, lost, problems, unaided = "", "", [], False
    if step >= 6:
        attached, lost = victim.attached(_cli, home, run, seed, lambda: started(starts))
    else:
        unaided = _closed_by_itself(home, run)
        problems += ["the keeper has not closed it"] * (not unaided)
    collected = _cli("gc", "--yes", "--held")
    if collected.returncode:
        problems.append(f"gc ended with {collected.returncode}: {collected.stderr.strip()[-400:]}")
    if attached == "value":
        lost = victim.kept(_cli, home, run, seed) or lost
    if run in {listed["id"] for listed in json.loads(_cli("ps", "--json").stdout)}:
        problems.append("the run is still open")
    count = started(starts)
    if count > 1:
        problems.append(f"the function started {count} times")
    alive = tuple(_lasting(run))
    return Trial(seed, run, step, count, attached, lost, unaided, alive, tuple(problems))


def _closed_by_itself(home: Path, run: str) -> bool:
    """Waits for the receipt that nobody has asked for."""
    until = time.monotonic() + _RUN_S
    while not (home / "runs" / run / "receipt.json").exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dayfly.runtime.cli", *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )


def _step(home: Path, run: str) -> int:
    return max((_STEP_OF.get(event, 0) for event in left.events(home, run)), default=0)


def _lasting(run: str) -> list[str]:
    """Those that are still there a moment later: an act of the keeper ends a moment after its receipt."""
    until = time.monotonic() + _LAST_S
    while (found := left.alive(run)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _lasting_keepers(home: Path) -> int:
    until = time.monotonic() + _LAST_S
    while (keeper := keepers.process(home)) is not None and time.monotonic() < until:
        time.sleep(0.1)
    return int(keeper is not None)
