"""Each endpoint of Lambda's API that Dayfly calls, each fault, at six positions of two runs: nothing leaks, no run has a second
machine for over a minute.

These are 13 endpoints x 10 faults x 6 positions = 780 cells. A full run tries each of them once, and for each fault at each
position one endpoint with the real engine: 60 in all. The minute is one of the cloud's, by the cloud's own log, with at most
another one for a busy computer. Only a launch that is carried out twice makes a second machine by itself; its six cells are tried
at a scale at which a minute is six seconds, so that what is found is Dayfly's time and not the computer's, every second one with
the engine, whose own seconds no scale makes faster.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dayfly.errors import DayflyError, LeakRisk
from dayfly.infra import lambda_http, lambda_offers
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.runtime.ladder import ladder
from dayfly.stacks.run_stack import RunStack
from tests.emulators.lambda_cloud import Fault, Options
from tests.faults import left
from tests.faults.family import Family
from tests.faults.lambda_run import SPEC, LambdaRun
from tests.faults.lambda_world import World, world
from tests.faults.place import Place
from tests.faults.trial import Trial

_NAME = "api"
OPERATIONS = (
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
    "list_file_systems",
    "list_regions",
)
# A delayed call is carried out later than its client waits for, and sooner than a launch may be late.
_DELAY_S = 300.0
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "duplicate"},
    {"kind": "truncate"},
    {"kind": "not_json"},
    {"kind": "empty"},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 502},
    {"kind": "status", "status": 503, "acts": True},
    {"kind": "delay", "delay_s": _DELAY_S},
)
# Which calls of the operation it strikes; the runs of a trial make at least two of each.
POSITIONS = ((1,), (2,), (1, 2), (1, 2, 3), (2, 3), (1, 3, 5))
CELLS = len(OPERATIONS) * len(FAULTS) * len(POSITIONS)
_RUNS = 2
_SCALE, _SLOW_SCALE = 200.0, 10.0
# Of the cloud's time, for which a client waits that is to give up before a delayed call is carried out.
_READ_S = 200.0
_OPTIONS = Options(
    machines=False, time_scale=_SCALE, listing_lag_s=20.0, terminating_s=4.0, boot_s=6.0, ip_s=10.0
)
# Slow to boot, so that a twin is listed while its run waits, and has to be ended by that.
_TWIN_OPTIONS = replace(_OPTIONS, time_scale=_SLOW_SCALE, boot_s=30.0, ip_s=35.0)
# It is in the API's listing and in no package, and no type lists it, so that Dayfly has to ask which regions there are.
_NEW_REGION = "us-east-2"
_KNOWN = lambda_offers.REGIONS


@dataclass(frozen=True)
class Cell:
    """One of the things that are tried, by number.

    Attributes:
        number: from 0 on.
    """

    number: int

    @property
    def op(self) -> str:
        """The endpoint."""
        return OPERATIONS[self.number % len(OPERATIONS)]

    @property
    def fault(self) -> dict[str, Any]:
        """What goes wrong with it."""
        return FAULTS[self._pair // len(POSITIONS)]

    @property
    def at(self) -> tuple[int, ...]:
        """With which of its calls."""
        return POSITIONS[self._pair % len(POSITIONS)]

    @property
    def _pair(self) -> int:
        """Fault and position."""
        return self.number // len(OPERATIONS)

    @property
    def with_engine(self) -> bool:
        """One endpoint of each fault and position: all endpoints in turn, and of twins every second launch."""
        chosen = self._pair
        if self.fault["kind"] == "duplicate":
            chosen = chosen + 1 if self._pair % 2 else OPERATIONS.index("launch")
        return self.op == OPERATIONS[chosen % len(OPERATIONS)]

    @property
    def is_twin(self) -> bool:
        """Whether the cloud makes a second machine by itself."""
        return self.op == "launch" and self.fault["kind"] == "duplicate"

    @property
    def spec(self) -> Spec:
        """A Spec for which the endpoint is called."""
        if self.op == "list_file_systems":
            return replace(SPEC, file_systems=("somebody-else",))
        return replace(SPEC, region=_NEW_REGION) if self.op == "list_regions" else SPEC


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """Every cell in turn."""
    with world(place.home, _OPTIONS) as cloud:
        for seed in seeds:
            yield _trial(place, cloud, seed)


def _trial(place: Place, cloud: World, seed: int) -> Trial:
    cell, chance = Cell(seed % CELLS), random.Random(seed)
    _prepare(cloud, cell)
    before = left.runs(place.home)
    with _patience(cell):
        problems = _with_engine(cloud, cell) if cell.with_engine else _without(cloud, cell, chance)
        cloud.cloud.clear_faults()
        runs = left.runs(place.home) - before
        problems += _closed_after_all(place, runs)
    leaked, more = place.broken_promises(*runs)
    struck = cloud.fired()
    status = f" {cell.fault['status']}" if "status" in cell.fault else ""
    where = f"{', with the engine' if cell.with_engine else ''}"
    faults = tuple(f"{each}{status} at calls {cell.at}{where}" for each in struck)
    leaked += cloud.leaked()
    problems += more + cloud.broken()
    twins_s = cloud.longest_twin_s()
    measured = (f"two machines for {twins_s:.0f} s of the cloud",) * bool(twins_s)
    return Trial(
        _NAME, seed, faults, tuple(leaked), (), (), tuple(problems), bool(faults), measured
    )


def _prepare(cloud: World, cell: Cell) -> None:
    """An empty account in which the fault waits."""
    cloud.renew(_TWIN_OPTIONS if cell.is_twin else _OPTIONS)
    lambda_offers.REGIONS = _KNOWN
    if cell.op == "list_regions":
        known = tuple(each for each in _KNOWN if each != _NEW_REGION)
        lambda_offers.REGIONS = known  # type: ignore[assignment]  # one less than today
        cloud.cloud.set_capacity(str(SPEC.instance_type), _NEW_REGION, 1000, listed=False)
    cloud.cloud.add_faults([Fault(cell.op, at=cell.at, **cell.fault)])


@contextlib.contextmanager
def _patience(cell: Cell) -> Iterator[None]:
    """A client without the engine waits for less than a delay at this scale; any other fault is answered at once."""
    usual_s = lambda_http._READ_S
    if cell.fault["kind"] == "delay":
        lambda_http._READ_S = _READ_S / _SCALE
    try:
        yield
    finally:
        lambda_http._READ_S = usual_s


def _without(cloud: World, cell: Cell, chance: random.Random) -> list[str]:
    """Two runs, each brought up and closed, with or without the engine's part of that."""
    problems = []
    for _ in range(_RUNS):
        try:
            started = LambdaRun.begin(cloud, cell.spec)
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


def _with_engine(cloud: World, cell: Cell) -> list[str]:
    """The same by the stack itself; a machine's door is opened while its wait goes on."""
    problems = []
    context = Context.open()
    for _ in range(_RUNS):
        try:
            offers = ladder(cell.spec)
        except DayflyError:
            continue
        stack = RunStack(cell.spec, context.workspace, context.engine(), offers)
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
    """Once the API is well again, one command ends what could not be proved before; there is no keeper here that would."""
    problems = []
    for run in sorted(runs):
        if not (place.home / "runs" / run / "receipt.json").exists():
            done = place.dayfly("gc", "--run", run, "--yes", "--held")
            if done.returncode:
                problems.append(f"gc ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return problems


FAMILY = Family(_NAME, trials=CELLS, sample=8, run=run, jobs=6, cells=CELLS)
