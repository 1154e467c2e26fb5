"""Crowd: many calls under way at once on the emulated cloud, by several clients, some of which are killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import left
from tests.faults.starts import Starts

# Further attempts of a call whose machine could not be had.
RETRIES = 2
_CALLS_OF_A_CLIENT = 10
_KILLED = 0.05
# Clients of one call that end by themselves, for each that dies at any moment: one of them lives when it is time.
_SPARE = 2
_POLL_S = 0.05
# Where a kill is aimed at a moment of its own run, and not of the crowd's.
POINTS = ("intent", "up_started", "launched", "machine", "job_started", "job_ended", "closing")

_CODE = """
import concurrent.futures, json, sys
from dayfly import cluster
from dayfly.errors import DayflyError

SEED, PORT = int(sys.argv[1]), int(sys.argv[2])


@cluster(
    provider="lambda",
    instance_type="gpu_1x_a10",
    region="us-east-1",
    environment=[],
    time="3h",
    retries={retries},
)
def work(number, seed, port):
    import hashlib, os, socket, time

    def tell(what):
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(f"{{what}} {{number}} {{os.environ['DAYFLY_RUN']}}\\n".encode())
            connection.makefile().readline()

    tell("started")
    print("step of call", number, flush=True)
    time.sleep(0.5)
    tell("finished")
    return hashlib.sha256(f"{{seed}}:{{number}}".encode()).hexdigest()


def show(number, result):
    try:
        found = {{"value": result()}}
    except Exception as error:
        found = {{
            "error": type(error).__name__,
            "ours": isinstance(error, DayflyError),
            "message": str(error)[:300],
        }}
    print(json.dumps({{"number": number, **found}}), flush=True)


jobs = {{}}
for number in map(int, sys.argv[3:]):
    try:
        jobs[work.submit(number, SEED, PORT)] = number
    except Exception as error:
        refused = concurrent.futures.Future()
        refused.set_exception(error)
        show(number, refused.result)
for job in concurrent.futures.as_completed(jobs):
    show(jobs[job], job.result)
"""


def value(seed: int, number: int) -> str:
    """What a call returns."""
    return hashlib.sha256(f"{seed}:{number}".encode()).hexdigest()


@dataclass
class Client:
    """One process with calls of its own.

    Attributes:
        numbers: of its calls.
        killed: when it was killed, in words; "" where nobody did.
    """

    numbers: tuple[int, ...]
    process: subprocess.Popen[bytes]
    log: Path
    killed: str = ""

    @property
    def lives(self) -> bool:
        """It is at work."""
        return self.process.poll() is None

    def kill(self, when: str) -> bool:
        """SIGKILL; False where it had ended."""
        if not self.lives:
            return False
        self.process.kill()
        self.killed = when if self.process.wait() < 0 else ""
        return bool(self.killed)

    @property
    def said(self) -> dict[int, dict[str, Any]]:
        """How its calls ended, as it has said; a line that it was killed in is none."""
        found = {}
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                found[int(told["number"])] = told
        return found


@dataclass(frozen=True)
class Plan:
    """Who calls what, and who dies when: the same for the same seed.

    Attributes:
        groups: calls of each client, those with a single call first.
        aimed: number of a call -> the event of its run after which its client dies.
        moments: so many calls have finished when a client with a single call dies that is chosen then.
        width_s: that a kill comes later than its event.
        many: so many calls have finished when a client with several calls dies that is chosen then.
    """

    groups: tuple[tuple[int, ...], ...]
    aimed: dict[int, str]
    moments: tuple[float, ...]
    width_s: dict[int, float]
    many: tuple[float, ...] = ()

    @property
    def calls(self) -> int:
        """How many there are."""
        return sum(map(len, self.groups))

    @classmethod
    def of(cls, runs: int, seed: int) -> Plan:
        """A twentieth of the calls, one at least, lose their client, which has no other: half at named points, half at any moment.

        Of several clients with many calls a twentieth die as well, one at least; as many more are there, so that so many runs
        are at work at once all the same.
        """
        chance = random.Random(seed)
        kills = max(1, round(runs * _KILLED))
        at_any = (kills + seed % 2) // 2
        numbers = list(range(runs))
        points = [*POINTS] * (kills // len(POINTS) + 1)
        aimed = dict(zip(numbers, chance.sample(points, kills - at_any), strict=False))
        single = min(kills + _SPARE * at_any, runs)
        large = -(-(runs - single) // _CALLS_OF_A_CLIENT)
        dying = max(1, round(large * _KILLED)) if large > 1 else 0
        rest = [*numbers[single:], *range(runs, runs + dying * _CALLS_OF_A_CLIENT)]
        groups: list[tuple[int, ...]] = [(number,) for number in numbers[:single]]
        groups += [
            tuple(rest[first : first + _CALLS_OF_A_CLIENT])
            for first in range(0, len(rest), _CALLS_OF_A_CLIENT)
        ]
        moments = sorted(chance.uniform(0, runs * 0.9) for _ in range(at_any))
        width_s = {number: chance.uniform(0, 1.0) for number in aimed}
        # While most of its calls are under way.
        many = sorted(chance.uniform(runs * 0.1, runs * 0.5) for _ in range(dying))
        return cls(tuple(groups), aimed, tuple(moments), width_s, tuple(many))


@dataclass
class Crowd:
    """All clients of one round.

    Lifecycle: `begin` starts them, `watch` returns when all have ended, `end` ends those that are left.
    """

    home: Path
    seed: int
    plan: Plan
    starts: Starts
    clients: list[Client] = field(default_factory=list)
    _runs: dict[str, int] = field(default_factory=dict)
    _before: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Every client at once."""
        self._before = left.runs(self.home)
        script = self.home / "crowd_client.py"
        script.write_text(_CODE.format(retries=RETRIES))
        for numbers in self.plan.groups:
            log = self.home / f"client.{self.seed}.{numbers[0]}.log"
            arguments = [str(self.seed), str(self.starts.port), *map(str, numbers)]
            with log.open("wb") as output, log.with_suffix(".err").open("wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, str(script), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    cwd=self.home,
                )
            self.clients.append(Client(numbers, process, log))

    def watch(self, limit_s: float) -> bool:
        """Kills who is to be killed, until all have ended.

        Returns:
            Whether they have, within the limit.
        """
        until, due = time.monotonic() + limit_s, dict[int, float]()
        moments, many, aimed = [*self.plan.moments], [*self.plan.many], dict(self.plan.aimed)
        chance = random.Random(self.seed)
        while any(client.lives for client in self.clients):
            if time.monotonic() > until:
                return False
            if moments and self.starts.finished >= moments[0]:
                self._kill_any(chance, moments.pop(0), self._single())
            if many and self.starts.finished >= many[0]:
                self._kill_any(chance, many.pop(0), [c for c in self.clients if len(c.numbers) > 1])
            for number, point in list(aimed.items()):
                if number not in due and any(self._has(run, point) for run in self.runs(number)):
                    due[number] = time.monotonic() + self.plan.width_s[number]
                if time.monotonic() >= due.get(number, until):
                    self.clients[number].kill(f"after {point!r}")
                    del aimed[number]
            time.sleep(_POLL_S)
        return True

    def end(self) -> None:
        """Those that are left."""
        for client in self.clients:
            client.process.kill()
            client.process.wait()

    def _single(self) -> list[Client]:
        """Those with one call that nobody has aimed at."""
        alone = [client for client in self.clients if len(client.numbers) == 1]
        return [client for client in alone if client.numbers[0] not in self.plan.aimed]

    def _kill_any(self, chance: random.Random, moment: float, among: list[Client]) -> None:
        alive = [client for client in among if client.lives]
        if alive:
            chosen = chance.choice(alive)
            calls = len(chosen.numbers)
            whose = f"of {calls} calls " if calls > 1 else ""
            chosen.kill(f"{whose}when {moment:.0f} calls had finished")

    def _has(self, run: str, event: str) -> bool:
        return event in left.events(self.home, run)

    def all_runs(self) -> list[str]:
        """The ids of all runs of this round."""
        return sorted(left.runs(self.home) - self._before)

    def runs(self, number: int) -> list[str]:
        """Those of the client whose first call has this number, in any order."""
        for run in left.runs(self.home) - self._before - set(self._runs):
            for line in left.journal(self.home, run)[:1]:
                self._runs[run] = int(line["client"]["pid"])
        pid = self._pids[number]
        return [run for run, client in self._runs.items() if client == pid]

    @property
    def _pids(self) -> dict[int, int]:
        return {client.numbers[0]: client.process.pid for client in self.clients}


@contextlib.contextmanager
def crowd(home: Path, seed: int, runs: int, starts: Starts) -> Iterator[Crowd]:
    """A round that begins; whoever is alive at the end of the block is ended."""
    made = Crowd(home, seed, Plan.of(runs, seed), starts)
    try:
        made.begin()
        yield made
    finally:
        made.end()
