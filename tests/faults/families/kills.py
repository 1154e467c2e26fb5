"""SIGKILL for client, keeper, engine, provider process, program or all of them, at any moment: nothing leaks, no result is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import keepers
from tests.faults import left, moments
from tests.faults.family import Family
from tests.faults.place import COMMAND_S, Place
from tests.faults.trial import Trial
from tests.faults.victim import Victim, started

_NAME = "kills"
_VICTIM = Victim(lines=40, pause_s=0.02, size=1 << 20)
_WIDTH_S = 0.06
# Of the collections after a kill, so many are killed as well.
_SECOND_KILL = 0.2
_TRIES = 4


@dataclass(frozen=True)
class _Call:
    """One client at work."""

    home: Path
    seed: int
    process: subprocess.Popen[bytes]
    run: str

    @property
    def starts(self) -> Path:
        return self.home / f"starts.{self.seed}"

    @property
    def log(self) -> Path:
        return self.home / f"client.{self.seed}.log"

    def targets(self) -> dict[str, list[psutil.Process]]:
        """Everything of ours that works for the run and is not its machine, by what it is."""
        found: dict[str, list[psutil.Process]] = {"client": [psutil.Process(self.process.pid)]}
        # It names no run: it is there for all of its home.
        keeper = keepers.process(self.home)
        if keeper is not None:
            found["keeper"] = [keeper]
        for process, command in left.processes(self.run):
            kind = _kind(command)
            if kind:
                found.setdefault(kind, []).append(process)
        return found


def _kind(command: list[str]) -> str:
    line = " ".join(command)
    if "dayfly.stacks.program" in line:
        return "program"
    if "pulumi.dynamic" in line or "pulumi-resource-pulumi-python" in line:
        return "provider process"
    if command and Path(command[0]).name == "pulumi":
        return "CLI"
    return "act of the keeper" if "dayfly.runtime.tend" in line else ""


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Half of the moments uniform in a run's whole life, half at named points."""
    script = place.home / "victim.py"
    script.write_text(_VICTIM.code)
    lasts_s = _whole_life_s(place, script)
    for seed in seeds:
        yield _trial(place, script, seed, lasts_s)


def _whole_life_s(place: Place, script: Path) -> float:
    """How long a client takes that nobody kills."""
    began = time.monotonic()
    command = [sys.executable, str(script), "0", str(place.home / "starts")]
    done = subprocess.run(
        command, capture_output=True, cwd=place.home, timeout=COMMAND_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def _trial(place: Place, script: Path, seed: int, lasts_s: float) -> Trial:
    """A named point that had passed is tried again with another run: each of them is to have its share of the kills."""
    for attempt in range(_TRIES if seed % 2 else 1):
        trial = _attempt(place, script, seed, lasts_s, random.Random(f"{seed}.{attempt}"))
        if trial.counted:
            break
    return trial


def _attempt(place: Place, script: Path, seed: int, lasts_s: float, chance: random.Random) -> Trial:
    (place.home / f"starts.{seed}").unlink(missing_ok=True)
    before, began = left.runs(place.home), time.monotonic()
    with (place.home / f"client.{seed}.log").open("wb") as log:
        client = subprocess.Popen(
            [sys.executable, str(script), str(seed), str(place.home / f"starts.{seed}")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.home,
        )
    try:
        run = moments.wait_for_run(place.home, before, client, COMMAND_S)
        if run is None:
            said = (place.home / f"client.{seed}.log").read_text()
            return Trial(_NAME, seed, problems=(f"the client made no run: {said[-400:]}",))
        call = _Call(place.home, seed, client, run)
        fault = _kill(call, chance, began, lasts_s)
        if fault is None:
            client.wait(COMMAND_S)
            return Trial(_NAME, seed, counted=False)
        return _judged(place, call, chance, fault)
    finally:
        client.kill()
        client.wait()


def _kill(call: _Call, chance: random.Random, began: float, lasts_s: float) -> str | None:
    """Kills at the seed's moment.

    Returns:
        What was killed when; None where the client had ended.
    """
    if call.seed % 2:
        names = list(moments.POINTS)
        point = names[call.seed // 2 % len(names)]
        if not moments.wait_for(
            moments.POINTS[point], call.home, call.run, call.process, COMMAND_S
        ):
            return None
        time.sleep(chance.uniform(0, _WIDTH_S))
        when = f"at {point!r}"
    else:
        moment_s = chance.uniform(0, lasts_s)
        time.sleep(max(0.0, began + moment_s - time.monotonic()))
        when = f"{moment_s:.2f} s after the start"
    # Stopped, so that it cannot end while it is decided who dies.
    call.process.send_signal(signal.SIGSTOP)
    if call.process.poll() is not None:
        return None
    targets = call.targets()
    whom = chance.choice(["client", "all", *(kind for kind in sorted(targets) if kind != "client")])
    for kind, processes in targets.items():
        for process in processes if whom in (kind, "all") else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(call.process.pid, signal.SIGCONT)
    return f"SIGKILL of {whom} {when} after {(left.events(call.home, call.run) or ['nothing'])[-1]}"


def _judged(place: Place, call: _Call, chance: random.Random, fault: str) -> Trial:
    """What a user does after a crash: attach where there may be a result, then gc; and what is left after that."""
    faults, lost, problems = [fault], "", []
    code = call.process.wait(COMMAND_S)
    killed = code == -signal.SIGKILL
    value = False
    if not killed:
        value, problem = _own_end(call, code)
        problems += [problem] * bool(problem)
    elif "job_started" in left.events(place.home, call.run) and not _closed(call):
        said, lost = _VICTIM.attached(place.dayfly, place.home, call.run, call.seed, call.starts)
        value = said == "value"
    if not _closed(call) and chance.random() < _SECOND_KILL:
        faults.append(_killed_gc(place, call, chance))
    done = place.dayfly("gc", "--run", call.run, "--yes", "--held")
    if done.returncode:
        problems.append(f"gc ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    if value:
        lost = _VICTIM.kept(place.dayfly, call.run, call.seed) or lost
    count = started(call.starts)
    problems += [f"the function started {count} times"] * (count > 1)
    leaked, more = place.broken_promises(call.run)
    lost_results = (lost,) if lost else ()
    return Trial(
        _NAME, call.seed, tuple(faults), tuple(leaked), lost_results, (), tuple(problems + more)
    )


def _closed(call: _Call) -> bool:
    return (call.home / "runs" / call.run / "receipt.json").exists()


def _own_end(call: _Call, code: int) -> tuple[bool, str]:
    """How a client that was left alive has ended.

    Returns:
        Whether it had the value, and what is wrong with that.
    """
    said = call.log.read_text(errors="replace")
    if code == 0:
        if left.machines(call.run):
            return True, "the client ended with 0 while the machine was alive"
        shown = _VICTIM.digest(call.seed) in said
        return True, "" if shown else "the client ended with 0 and without the value"
    if started(call.starts):
        return False, f"the function had started, and the client ended with {code}: {said[-600:]}"
    return False, ""


def _killed_gc(place: Place, call: _Call, chance: random.Random) -> str:
    """A collection that dies as well."""
    command = [
        sys.executable,
        "-m",
        "dayfly.runtime.cli",
        "gc",
        "--run",
        call.run,
        "--yes",
        "--held",
    ]
    with (place.home / "gc.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    moment_s = chance.uniform(0.3, 3.0)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment_s)
    process.kill()
    process.wait()
    return f"SIGKILL of gc after {moment_s:.2f} s"


FAMILY = Family(_NAME, trials=500, sample=1, run=run, jobs=4)
