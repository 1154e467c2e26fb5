"""Ctrl-C once and twice, SIGTERM and a closed terminal, through a real pty at ten phases: nothing alive, no lock, 130."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import left
from tests.faults.family import Family
from tests.faults.place import COMMAND_S, Place
from tests.faults.trial import Trial
from tests.faults.victim import Victim

_NAME = "signals"
_VICTIM = Victim(lines=40, pause_s=0.02, size=1 << 16)
_PHASES = (
    "intent",
    "resources",
    "stack_created",
    "up_started",
    "launched",
    "machine",
    "connected",
    "job_started",
    "job_ended",
    "closing",
)
_KINDS = ("Ctrl-C", "Ctrl-C twice", "SIGTERM", "SIGHUP")
_WIDTH_S = 0.4


@dataclass
class _Terminal:
    """A program in a terminal of its own, which is closed where the kind says so."""

    pid: int
    master: int
    said: bytearray = field(default_factory=bytearray)
    code: int | None = None

    @classmethod
    def start(cls, command: list[str], cwd: Path) -> _Terminal:
        """Forks it into a session whose terminal is the pty."""
        pid, master = pty.fork()
        if pid == 0:
            os.chdir(cwd)
            os.execv(command[0], command)
        made = cls(pid, master)
        threading.Thread(target=made._read, daemon=True).start()
        return made

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 1 << 16):
                self.said += data

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                # As a shell shows it.
                self.code = code if code >= 0 else 128 - code
        return self.code is not None

    def wait(self, wait_s: float) -> bool:
        """Waits for its end."""
        until = time.monotonic() + wait_s
        while not self.poll() and time.monotonic() < until:
            time.sleep(0.02)
        return self.poll()

    def type_interrupt(self) -> None:
        """What a user does."""
        os.write(self.master, b"\x03")

    def close(self) -> None:
        """Closes the terminal, and ends the program if it is there all the same."""
        with contextlib.suppress(OSError):
            os.close(self.master)
        if not self.poll():
            os.kill(self.pid, signal.SIGKILL)
            self.wait(10)


@dataclass(frozen=True)
class _Sent:
    """What was sent, and the unix time before that."""

    what: str
    at: float


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Every kind at every phase in turn; half of them for a script, half for `dayfly run`."""
    script = place.home / "victim.py"
    script.write_text(_VICTIM.code)
    for seed in seeds:
        yield _trial(place, script, seed)


def _trial(place: Place, script: Path, seed: int) -> Trial:
    chance = random.Random(seed)
    phase = _PHASES[seed % len(_PHASES)]
    kind = _KINDS[seed // len(_PHASES) % len(_KINDS)]
    arguments = [str(seed), str(place.home / f"starts.{seed}")]
    by_cli = chance.random() < 0.5
    command = ["-m", "dayfly.runtime.cli", "run", "victim:train"] if by_cli else [str(script)]
    before = left.runs(place.home)
    terminal = _Terminal.start([sys.executable, *command, *arguments], place.home)
    try:
        run = _await_phase(place.home, before, phase, terminal)
        if run is None and not left.runs(place.home) - before:
            said = bytes(terminal.said[-400:]).decode(errors="replace")
            return Trial(_NAME, seed, problems=(f"the client made no run: {said}",))
        time.sleep(chance.uniform(0, _WIDTH_S))
        if run is None or terminal.poll():
            return Trial(_NAME, seed, counted=False)
        whom = "`dayfly run`" if by_cli else "a script"
        at = time.time()
        sent = _Sent(f"{_sent(terminal, kind, chance)} to {whom} at {phase!r}", at)
        return _judged(place, run, seed, terminal, sent)
    finally:
        terminal.close()


def _await_phase(home: Path, before: set[str], phase: str, terminal: _Terminal) -> str | None:
    until = time.monotonic() + COMMAND_S
    while not terminal.poll() and time.monotonic() < until:
        for run in left.runs(home) - before:
            if phase in left.events(home, run):
                return run
        time.sleep(0.002)
    return None


def _sent(terminal: _Terminal, kind: str, chance: random.Random) -> str:
    if kind == "SIGTERM":
        os.kill(terminal.pid, signal.SIGTERM)
    elif kind == "SIGHUP":
        os.close(terminal.master)
        return "SIGHUP by a closed terminal"
    else:
        terminal.type_interrupt()
    if kind == "Ctrl-C twice":
        if terminal.wait(chance.uniform(0.1, 1.5)):
            return "Ctrl-C"
        terminal.type_interrupt()
    return kind


def _judged(place: Place, run: str, seed: int, terminal: _Terminal, sent: _Sent) -> Trial:
    problems = []
    twice = sent.what.startswith("Ctrl-C twice")
    if not terminal.wait(60.0):
        problems.append("the client did not end within 60 s")
    receipt = place.home / "runs" / run / "receipt.json"
    ended = had_ended(left.journal(place.home, run), sent.at)
    said = bytes(terminal.said[-800:]).decode(errors="replace")
    if (trouble := wrong_code(terminal.code, ended, receipt.exists())) != "":
        problems.append(f"{trouble}: {said}")
    if twice:
        _wait_for_receipt(receipt)
    elif alive := left.machines(run):
        problems.append(f"the machine outlived the client: {alive}")
    leaked, more = place.broken_promises(run)
    measured = ("exit code 0, after the function had ended",) * (terminal.code == 0 and ended)
    return Trial(
        _NAME, seed, (sent.what,), tuple(leaked), (), (), tuple(problems + more), measured=measured
    )


def had_ended(journal: Sequence[Mapping[str, Any]], sent_at: float) -> bool:
    """Whether the function had come to its end when the signal was sent, by what the journal says."""
    return any(line["event"] == "job_ended" and float(line["t"]) <= sent_at for line in journal)


def wrong_code(code: int | None, ended: bool, receipt: bool) -> str:
    """What is wrong with an exit code, "" where nothing is.

    An interrupt that is lost looks like a good end: 0 is one only where there was nothing left to interrupt.

    Args:
        code: as a shell shows it, None where the client lives.
        ended: whether its function had ended before the signal.
        receipt: whether the run is proved gone.
    """
    if code == 0 and ended:
        return "" if receipt else "it ended with 0 and without a receipt"
    if code == 0:
        return "it ended with 0: the signal was lost, its function had not ended before it"
    return "" if code in (130, None) else f"it ended with {code}, not 130"


def _wait_for_receipt(receipt: Path) -> None:
    """Another process writes it."""
    until = time.monotonic() + 60.0
    while not receipt.exists() and time.monotonic() < until:
        time.sleep(0.05)


FAMILY = Family(_NAME, trials=200, sample=2, run=run, jobs=3)
