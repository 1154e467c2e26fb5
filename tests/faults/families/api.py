"""Each endpoint of Lambda's API, each fault, at six positions of two runs: nothing leaks, no machine is there twice."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

from dayfly.errors import DayflyError, LeakRisk
from dayfly.runtime.call import ladder
from dayfly.runtime.context import Context
from dayfly.stacks.run_stack import RunStack
from tests.emulators.lambda_cloud import Fault, Options
from tests.faults import left
from tests.faults.family import Family
from tests.faults.lambda_run import SPEC, LambdaRun
from tests.faults.lambda_world import World, world
from tests.faults.place import Place
from tests.faults.trial import Trial

_NAME = "api"
_OPERATIONS = (
    "launch",
    "terminate",
    "list_instances",
    "get_instance",
    "list_instance_types",
    "add_ssh_key",
    "list_ssh_keys",
    "delete_ssh_key",
    "create_ruleset",
    "list_rulesets",
    "delete_ruleset",
)
_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "duplicate"},
    {"kind": "truncate"},
    {"kind": "not_json"},
    {"kind": "empty"},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 502},
    {"kind": "status", "status": 503, "acts": True},
)
# Which calls of the operation it strikes; the runs of a trial make at least two of each.
_POSITIONS = ((1,), (2,), (1, 2), (1, 2, 3), (2, 3), (1, 3, 5))
_CELLS = len(_OPERATIONS) * len(_FAULTS) * len(_POSITIONS)
_RUNS = 2
_SCALE = 200.0
# So many of ten cells are tried without the engine.
_WITHOUT_ENGINE = 9
_OPTIONS = Options(
    machines=False, time_scale=_SCALE, listing_lag_s=20.0, terminating_s=4.0, boot_s=6.0, ip_s=10.0
)


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Every cell in turn; of ten, one with the real engine."""
    with world(place.home, _OPTIONS) as cloud:
        for seed in seeds:
            yield _trial(place, cloud, seed)


def _trial(place: Place, cloud: World, seed: int) -> Trial:
    cell, chance = seed % _CELLS, random.Random(seed)
    op = _OPERATIONS[cell % len(_OPERATIONS)]
    how = _FAULTS[cell // len(_OPERATIONS) % len(_FAULTS)]
    at = _POSITIONS[cell // (len(_OPERATIONS) * len(_FAULTS))]
    cloud.renew()
    cloud.cloud.add_faults([Fault(op, at=at, **how)])
    engine = seed % 10 >= _WITHOUT_ENGINE
    before = left.runs(place.home)
    problems = _with_engine(cloud) if engine else _without(cloud, chance)
    cloud.cloud.clear_faults()
    runs = left.runs(place.home) - before
    problems += _closed_after_all(place, runs)
    leaked, more = place.broken_promises(*runs)
    struck = cloud.fired()
    status = f" {how['status']}" if "status" in how else ""
    where = f"{', with the engine' if engine else ''}"
    faults = tuple(f"{each}{status} at calls {at}{where}" for each in struck)
    leaked += cloud.leaked()
    problems += more + cloud.broken(engine=engine)
    return Trial(_NAME, seed, faults, tuple(leaked), (), (), tuple(problems), bool(faults))


def _without(cloud: World, chance: random.Random) -> list[str]:
    """Two runs, each brought up and closed, with or without the engine's part of that."""
    problems = []
    for _ in range(_RUNS):
        try:
            started = LambdaRun.begin(cloud)
        except DayflyError:
            continue
        with contextlib.suppress(DayflyError):
            started.up()
        if chance.random() < 0.5:
            started.delete()
        try:
            started.close()
        except LeakRisk:
            continue
        mine = [row for row in cloud.cloud.live() if started.id in str(row["tags"])]
        problems += [f"run {started.id} was called gone while it was alive"] * bool(mine)
    return problems


def _with_engine(cloud: World) -> list[str]:
    """The same by the stack itself; a machine's door is opened while its wait goes on."""
    problems = []
    context = Context.open()
    for _ in range(_RUNS):
        try:
            offers = ladder(SPEC)
        except DayflyError:
            continue
        stack = RunStack(SPEC, context.workspace, context.engine(), offers)
        with _Doorman(cloud):
            try:
                with stack:
                    pass
            except LeakRisk:
                stack.leave_open()
                continue
            except DayflyError:
                pass
        mine = [row for row in cloud.cloud.live() if stack.id in str(row["tags"])]
        problems += [f"run {stack.id} was called gone while it was alive"] * bool(mine)
    return problems


class _Doorman:
    """Opens the door of every machine as it comes."""

    def __init__(self, cloud: World) -> None:
        self._cloud, self._end = cloud, threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._end.wait(0.1):
            for row in self._cloud.cloud.live():
                self._cloud.open_door(row["id"])


def _closed_after_all(place: Place, runs: set[str]) -> list[str]:
    """Once the API is well again, one command ends what could not be proved before."""
    problems = []
    for run in sorted(runs):
        if not (place.home / "runs" / run / "receipt.json").exists():
            done = place.dayfly("gc", "--run", run, "--yes", "--held")
            if done.returncode:
                problems.append(f"gc ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return problems


FAMILY = Family(_NAME, trials=_CELLS, sample=8, run=run, jobs=4)
