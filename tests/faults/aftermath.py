"""Aftermath: what client, keeper and user do after a kill, in that order, and what is not as promised when they are done."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests import keepers
from tests.faults import left
from tests.faults.kill_call import Call
from tests.faults.place import COMMAND_S, Place
from tests.faults.starts import Starts
from tests.faults.victim import Victim

# A launch without an answer may come for 30 s of ours; an operation of the engine that is under way is waited for.
_KEEPER_S = 120.0
_POLL_S = 0.1
# Of the runs that have no result to lose, so many are collected by somebody who is killed as well.
_SECOND_KILL = 0.2
# What users do about a function whose client is dead: ask at once, ask later, or not at all.
_USERS = ("attach", "keeper, attach", "keeper, gc")
_NO_LONGER_HELD = {"acknowledged", "never_started", "instance_lost", "cancelled"}


class World(Protocol):
    """A cloud of the tests' own, as it is itself the witness."""

    def lives(self, run: str) -> bool:
        """Whether a machine of a run is there."""

    def leaked(self) -> list[str]:
        """What is there and is not somebody else's."""

    def broken(self) -> list[str]:
        """What else does not hold there (I3, I8)."""


def owed(home: Path, run: str) -> str:
    """What is still to be done about a run by a keeper, by itself and with no command of anybody; "" for nothing.

    A result that it has brought home is kept on its machine too, until somebody asks for it or its time is over.
    """
    directory = home / "runs" / run
    if (directory / "receipt.json").exists():
        return "looked once more" if (directory / "look_again").exists() else ""
    events = set(left.events(home, run))
    if "job_started" not in events or events & _NO_LONGER_HELD:
        return "closed it"
    return "" if "held" in events else "brought its result home"


@dataclass
class Aftermath:
    """What is found after one kill.

    Attributes:
        place: where it was.
        call: its client.
        victim: what the client calls.
        starts: what the function has said of itself.
        cloud: where the machine was; None for this computer.
        chance: chooses what the user does.
        faults: all that was injected.
        by_hand: without a keeper, who calls collects at once what has no result to lose.
        lost, problems, leaked: as of a Trial.
        keeper_s: how long the keeper took.
    """

    place: Place
    call: Call
    victim: Victim
    starts: Starts
    cloud: World | None
    chance: random.Random
    faults: list[str]
    by_hand: bool = False
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    keeper_s: float = 0.0

    def follow(self, *, keeper_dead: bool, let_go: Callable[[], None]) -> None:
        """Everything, to its end.

        Args:
            keeper_dead: whether the keeper was killed: then the next command of anybody starts another.
            let_go: returns when no call of the cloud's API is held any more.
        """
        user = self.chance.choice(_USERS)
        if self._client_killed() and not self._closed:
            if not self._has_begun:
                self._kill_a_collection()
                if keeper_dead and self.by_hand:
                    self._collect_all()
            elif user == "attach":
                self._attach()
        self._wait_for_keeper(keeper_dead)
        if not self._closed and self._has_begun and user != "keeper, gc":
            self._attach()
        let_go()
        if not self._closed:
            self._collect()
        self._judge()

    def _client_killed(self) -> bool:
        """Waits for the client, which has to have ended as it should where it was left alive."""
        try:
            code = self.call.process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            self.problems.append(f"the client was at work after {COMMAND_S:.0f} s: {self._said}")
            return False
        if code == 0:
            self._judge_success()
        elif code != -signal.SIGKILL and self.starts.of_run(self.call.run):
            self.problems.append(
                f"the function had started, and its client got {code}: {self._said}"
            )
        return code == -signal.SIGKILL

    def _judge_success(self) -> None:
        # One that is kept goes later, by the keeper.
        is_kept = "kept" in left.events(self.place.home, self.call.run)
        alive = bool(left.machines(self.call.run)) and not is_kept
        if self.cloud is not None:
            alive = self.cloud.lives(self.call.run)
        self.problems += ["the client ended with 0 while the machine was alive"] * alive
        if self.victim.digest(self.call.seed) not in self.call.log.read_text(errors="replace"):
            self.problems.append("the client ended with 0 and without the value")

    def _wait_for_keeper(self, dead: bool) -> None:
        """The keeper does all of its part, and nobody helps it; without one that is the next command's to see to."""
        home, run = self.place.home, self.call.run
        began = time.monotonic()
        if owed(home, run) and keepers.process(home) is None:
            self.problems += ["there is no keeper, and nobody has killed it"] * (not dead)
            self.place.dayfly("ps")
        while what := owed(home, run):
            if time.monotonic() > began + _KEEPER_S:
                self.problems.append(f"in {_KEEPER_S:.0f} s the keeper has not {what}: {self._act}")
                break
            time.sleep(_POLL_S)
        self.keeper_s = time.monotonic() - began

    def _attach(self) -> None:
        home, run, seed = self.place.home, self.call.run, self.call.seed
        _, why = self.victim.attached(
            self.place.dayfly, home, run, seed, lambda: self.starts.of_run(run)
        )
        self.lost += [why] * bool(why)

    def _kill_a_collection(self) -> None:
        """Of a few, a collection dies as well, and the keeper goes on from there."""
        if self.chance.random() >= _SECOND_KILL:
            return
        command = [sys.executable, "-m", "dayfly.runtime.cli"]
        command += ["gc", "--run", self.call.run, "--yes"]
        moment_s = self.chance.uniform(0.3, 3.0)
        with (self.place.home / "gc.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            self.faults.append(f"SIGKILL of gc after {moment_s:.2f} s")

    def _collect(self) -> None:
        done = self.place.dayfly("gc", "--run", self.call.run, "--yes", "--held")
        if done.returncode:
            self.problems.append(f"gc ended with {done.returncode}: {done.stderr.strip()[-400:]}")

    def _collect_all(self) -> None:
        """As somebody does who comes back to a computer that was switched off: all that is closed when it returns, or is being
        closed: the keeper that it starts may be at a run before it looks, and is left to that."""
        done = self.place.dayfly("gc", "--yes")
        seen = self._closed or self._has_begun
        seen = seen or "closing" in left.events(self.place.home, self.call.run)
        if done.returncode or not seen:
            said = f"{done.stdout.strip()[-400:]} {done.stderr.strip()[-400:]}"
            self.problems.append(f"gc of everything ended with {done.returncode}: {said}")

    def _judge(self) -> None:
        """What is left, and what of a finished function cannot be had."""
        run = self.call.run
        if finished := self.starts.finishes_of(run):
            home, seed = self.place.home, self.call.seed
            why = self.victim.kept(self.place.dayfly, home, run, seed, finished)
            self.lost += [why] * bool(why)
        count = self.starts.of_run(run)
        self.problems += [f"the function started {count} times"] * (count > self.victim.calls)
        leaked, more = self.place.broken_promises(run)
        self.leaked += leaked
        self.problems += more
        if self.cloud is not None:
            self.leaked += self.cloud.leaked()
            self.problems += self.cloud.broken()

    @property
    def _closed(self) -> bool:
        return (self.place.home / "runs" / self.call.run / "receipt.json").exists()

    @property
    def _has_begun(self) -> bool:
        """There may be a result of it."""
        return "job_started" in left.events(self.place.home, self.call.run)

    @property
    def _act(self) -> str:
        """What is known of the keeper's part."""
        there = keepers.process(self.place.home) is not None
        log = self.place.home / "runs" / self.call.run / "keeper.log"
        said = log.read_text(errors="replace")[-600:] if log.exists() else ""
        events = left.events(self.place.home, self.call.run)[-3:]
        alive = left.alive(self.call.run)
        return (
            f"it {'lives' if there else 'is dead'}, after {events}, said {said!r}, beside {alive}"
        )

    @property
    def _said(self) -> str:
        return self.call.log.read_text(errors="replace")[-600:]
