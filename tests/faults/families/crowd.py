"""200 calls at once on the emulated cloud, limits on, a twentieth of its answers wrong, a twentieth of the clients killed."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.emulators.lambda_cloud import Fault, Options
from tests.faults import left
from tests.faults.crowd import Client, Crowd, crowd, value
from tests.faults.family import Family
from tests.faults.lambda_world import World, world
from tests.faults.peak import Peak, peak
from tests.faults.place import Place
from tests.faults.starts import Starts, starts
from tests.faults.trial import Trial

_NAME = "crowd"
_RUNS, _FEW = 200, 6
# A run makes about 22 requests, so that at one a second of the API's time 200 runs take a bit more than an hour of it:
# about the minutes that two cores need for their engines. Faster, and the waits that are scaled poll for nothing.
_OPTIONS = Options(time_scale=20, listing_lag_s=20.0)
_FAULTS: tuple[dict[str, object], ...] = (
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 503},
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "delay", "delay_s": 10.0},
    {"kind": "truncate"},
    {"kind": "not_json"},
)
_FAULTY = 0.05
# A call fails where three attempts in a row do. One attempt makes three requests that create, and two faults of seven
# leave open whether that was done and did not do it: 3 * 0.05 * 2 / 7 = 4 %, three in a row 1 of 10,000. One of a
# hundred may fail for all that, in the one request that comes before there is a run to try again.
_FAILED = 0.01
_MOST_BYTES = 4 << 30
_LIMIT_S, _LIMIT_OF_A_RUN_S = 120.0, 15.0
# For the keeper, which by itself closes what nobody holds.
_KEEPER_S = 180.0
# What is told is rounded.
_ROUNDED_USD = 0.0001


def run(place: Place, seeds: Iterator[int], runs: int = _RUNS) -> Iterator[Trial]:
    """One round for each seed."""
    with world(place.home, _OPTIONS) as cloud:
        for seed in seeds:
            yield _trial(place, cloud, seed, runs)


def _trial(place: Place, cloud: World, seed: int, runs: int) -> Trial:
    cloud.renew()
    cloud.cloud.add_faults(_faults(seed))
    began = time.monotonic()
    with (
        starts() as counted,
        peak(place.home, cloud.cloud.pid) as memory,
        crowd(place.home, seed, runs, counted) as everybody,
    ):
        ended = everybody.watch(_LIMIT_S + runs * _LIMIT_OF_A_RUN_S)
        took_s = time.monotonic() - began
        round = _Round(place, cloud, everybody, counted, runs)
        round.problems += ["clients were still at work at the end of the time"] * (not ended)
        return round.judged(memory, took_s)


def _faults(seed: int) -> list[Fault]:
    """Each kind as often as the others; the first that strikes counts, so that the rates add up."""
    rate = _FAULTY / len(_FAULTS)
    lines = [
        {"op": "*", "rate": rate, "seed": seed * len(_FAULTS) + number, **fault}
        for number, fault in enumerate(_FAULTS)
    ]
    return [Fault.from_json(line) for line in lines]


@dataclass
class _Round:
    """What is found when all clients have ended.

    Attributes:
        wanted: so many runs make it a round.
    """

    place: Place
    cloud: World
    crowd: Crowd
    starts: Starts
    wanted: int
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def judged(self, memory: Peak, took_s: float) -> Trial:
        """What users do after the crash of their clients, and what is left after that."""
        began = time.monotonic()
        struck = self.cloud.fired()
        self.cloud.cloud.clear_faults()
        for client in self.crowd.clients:
            self._ask(client)
            if client.killed:
                self._attach(client)
        closing_s = self._wait_for_keeper()
        done = self.place.dayfly("gc", "--yes", "--held")
        if done.returncode:
            self.problems.append(f"gc ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        for client in self.crowd.clients:
            for run in self.crowd.runs(client.numbers[0]) if client.killed else ():
                self._look_for_result(run)
        runs = self.crowd.all_runs()
        if len(runs) < self.wanted:
            self.problems.append(f"{len(runs)} runs are no round of {self.wanted}")
        leaked, more = self.place.broken_promises(*runs)
        self._count_starts(runs)
        self._compare_cost()
        self._judge_memory(memory)
        self._judge_failed()
        kills = [client.killed for client in self.crowd.clients if client.killed]
        calls = self.cloud.cloud.health()
        return Trial(
            _NAME,
            self.crowd.seed,
            (*(f"SIGKILL of a client {when}" for when in kills), *struck),
            (*leaked, *self.cloud.leaked()),
            tuple(self.lost),
            (),
            (*self.problems, *more, *self.cloud.broken()),
            counted=bool(kills),
            measured=(
                f"{len(runs)} runs in {took_s:.0f} s",
                f"{closing_s:.0f} s until the keeper had closed what was left to it",
                f"{time.monotonic() - began:.0f} s until all was closed and looked at",
                f"{sum(calls['calls'].values())} requests",
                f"{calls['requests_refused'] + calls['launches_refused']} over the limits",
                f"{len(self.failed)} calls failed{''.join(f'; {each}' for each in self.failed)}",
                f"peak {memory.total_bytes / 2**30:.2f} GiB in {memory.processes} processes,"
                f" {memory.cloud_bytes / 2**30:.2f} GiB of it the cloud's",
            ),
        )

    def _ask(self, client: Client) -> None:
        """A client that was left alive has told a value of each call, or why there is none; one that was killed, of some."""
        said = client.said
        for number in client.numbers:
            told = said.get(number)
            if told is None and client.killed:
                continue
            if told is None:
                text = client.log.with_suffix(".err").read_text(errors="replace")[-600:]
                self.lost.append(f"nobody told how call {number} ended: {text}")
            elif "value" in told:
                right = told["value"] == value(self.crowd.seed, number)
                self.lost += [f"call {number} gave {told['value']!r}"] * (not right)
            else:
                self._judge_error(number, told["error"], told["message"], bool(told["ours"]))
        code = client.process.returncode
        if client.killed:
            return
        # What could not be proved while the answers were wrong is the keeper's.
        if code not in (0, 75):
            text = client.log.with_suffix(".err").read_text(errors="replace")[-600:]
            self.problems.append(
                f"the client of call {client.numbers[0]} ended with {code}: {text}"
            )

    def _judge_error(self, number: int, name: str, message: str, ours: bool) -> None:
        self.failed.append(f"call {number}: {name}: {message}")
        if self.starts.has_finished(number):
            self.lost.append(f"call {number} had finished, and its client got {name}: {message}")
        self.problems += [f"call {number} raised {name}: {message}"] * (not ours)

    def _attach(self, client: Client) -> None:
        """The value of each function that was started, from the machine or from the keeper."""
        for run in self.crowd.runs(client.numbers[0]):
            if self._is_closed(run) or "job_started" not in left.events(self.place.home, run):
                continue
            done = self.place.dayfly("attach", run)
            if done.returncode and "never started" in done.stderr and not self.starts.of_run(run):
                continue
            if not self._is_value(run, done.stdout.strip().rpartition("\n")[2]):
                said = f"{done.stdout.strip()[-200:]} {done.stderr.strip()[-400:]}"
                self.lost.append(f"attach to run {run} ended with {done.returncode}: {said}")

    def _look_for_result(self, run: str) -> None:
        """Of a function that has finished it is there after all is over."""
        if self.starts.run_has_finished(run):
            kept = self.place.dayfly("result", run)
            if not self._is_value(run, kept.stdout.strip()):
                said = f"{kept.stdout.strip()[-200:]} {kept.stderr.strip()[-200:]}"
                self.lost.append(f"`dayfly result {run}` after gc: {said}")

    def _is_value(self, run: str, shown: str) -> bool:
        number = self.starts.call_of(run)
        return number is not None and shown.strip("'") == value(self.crowd.seed, number)

    def _wait_for_keeper(self) -> float:
        """What is open is the keeper's: `gc`, which is used afterwards, must find nothing to do.

        Returns:
            How many seconds it took.
        """
        began = time.monotonic()
        while (open_runs := self._open_runs()) and time.monotonic() - began < _KEEPER_S:
            time.sleep(0.2)
        self.problems += [
            f"the keeper had not closed run {run} after {_KEEPER_S:.0f} s:"
            f" {left.events(self.place.home, run)[-3:]}"
            for run in open_runs
        ]
        return time.monotonic() - began

    def _open_runs(self) -> list[str]:
        return [run for run in self.crowd.all_runs() if not self._is_closed(run)]

    def _is_closed(self, run: str) -> bool:
        return Path(self.place.home, "runs", run, "receipt.json").exists()

    def _count_starts(self, runs: list[str]) -> None:
        for run in runs:
            count = self.starts.of_run(run)
            self.problems += [f"the function of run {run} started {count} times"] * (count > 1)

    def _compare_cost(self) -> None:
        """No run may be told to have cost less than the meter says."""
        bills: dict[str, float] = defaultdict(float)
        for bill in self.cloud.cloud.meter()["bills"]:
            bills[bill["tags"].get("dayfly-run", "")] += bill["dollars"]
        told = json.loads(self.place.dayfly("cost", "--json").stdout)
        costs = {str(each["run"]): float(each["usd"]) for each in told["runs"]}
        for run in self.crowd.all_runs():
            if costs.get(run, 0.0) < bills[run] - _ROUNDED_USD:
                said = f"{costs.get(run, 0.0):.4f}"
                self.problems.append(
                    f"run {run} cost ${bills[run]:.4f}, and was said to cost ${said}"
                )

    def _judge_memory(self, memory: Peak) -> None:
        if not 0 < memory.total_bytes < _MOST_BYTES:
            self.problems.append(f"peak memory was {memory.total_bytes / 2**30:.2f} GiB")

    def _judge_failed(self) -> None:
        calls = sum(len(client.numbers) for client in self.crowd.clients)
        if len(self.failed) > max(1, calls * _FAILED):
            self.problems.append(f"{len(self.failed)} of {calls} calls failed in all attempts")


FAMILY = Family(_NAME, trials=3, sample=1, run=run, jobs=1, small=partial(run, runs=_FEW))
