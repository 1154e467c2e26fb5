"""SIGKILL for client, keeper, engine, provider process, program or all of them, at any moment: nothing leaks, no result is lost.

Half of the runs are on Lambda's emulator; half of the kills come at a named point, and are made again where they miss it. Of those
on this computer half are of runs whose machine stays for further calls, or of runs of two machines.
"""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import psutil

from tests.faults import left, moments
from tests.faults.aftermath import Aftermath
from tests.faults.family import Family
from tests.faults.kill_aim import KEPT, Aim
from tests.faults.kill_bench import VICTIMS, Bench, bench
from tests.faults.kill_call import Call, Stroke, strike
from tests.faults.kill_hold import Held, held
from tests.faults.moments import SIGNS, Sight
from tests.faults.place import COMMAND_S, Place
from tests.faults.trial import Trial

_NAME = "kills"
_TRIES = 4
# How long after its sign a run is still at a point, as a rule: so much later a kill may come. One that has missed its
# point for that comes at once in the next run.
_STAYS_S = {"recorded": 0.1, "running": 0.5, "finished": 0.02, "destroying": 0.5, "removed": 0.1}
_HELD_S = 0.06
# There a machine comes to be, by processes that do not wait for their client.
_BY_ENGINE = ("before POST", "accepted", "answered")


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """What each seed is for is `Aim.of`'s to say."""
    with bench(place) as shared:
        for seed in seeds:
            yield _trial(shared, Aim.of(seed))


def _trial(shared: Bench, aim: Aim) -> Trial:
    """A kill that has missed its point is judged as every other, and another run is killed for it: each point is to have
    its share."""
    lasts_s = 0.0 if aim.point else shared.lasts_s(aim)
    for attempt in range(_TRIES if aim.point else 1):
        trial = _attempt(shared, aim, attempt, lasts_s)
        if trial.wrong or (trial.counted and trial.point == aim.point):
            break
    return trial


def _attempt(shared: Bench, aim: Aim, attempt: int, lasts_s: float) -> Trial:
    """One run and one kill."""
    home, cloud = shared.place.home, shared.cloud(aim.provider)
    with held(cloud, aim.hold) as call_held:
        before = left.runs(home)
        client = shared.client(aim.provider, aim.kind, aim.seed)
        try:
            run = moments.wait_for_run(home, before, client, COMMAND_S)
            if run is None:
                return _failed(aim, f"the client made no run: {shared.place.said(aim.seed)}")
            began = time.monotonic()
            call = Call(home, aim.seed, client, run)
            sight = Sight(home, run, shared.starts, cloud)
            chance = random.Random(f"{aim.seed}.{attempt}")
            kill = _Kill(shared, aim, call, sight, call_held, chance, before)
            trial = kill.made(lasts_s, in_haste=attempt > 0)
            if not (aim.point or trial.counted or trial.wrong):
                shared.lasted(aim, time.monotonic() - began)
            return trial
        finally:
            client.kill()
            client.wait()


def _failed(aim: Aim, problem: str) -> Trial:
    return Trial(_NAME, aim.seed, problems=(problem,))


@dataclass
class _Kill:
    """One kill, from the wait for its moment to the proof that nothing is left."""

    shared: Bench
    aim: Aim
    call: Call
    sight: Sight
    held: Held | None
    chance: random.Random
    before: set[str]

    def made(self, lasts_s: float, *, in_haste: bool) -> Trial:
        """The trial.

        Args:
            lasts_s: how long a run takes.
            in_haste: the kill comes as soon as its point is reached.
        """
        if self.aim.point:
            came, first = self._point(in_haste)
            when = f"at {self.aim.point!r}"
        else:
            moment_s = self.chance.uniform(0, lasts_s)
            came, first, when = self._after(moment_s), [], f"{moment_s:.2f} s after its first file"
        if came is None:
            said = self.shared.place.said(self.aim.seed)
            return _failed(self.aim, f"it did not come to {self.aim.point!r}: {said}")
        stroke = self._struck(first) if came else None
        if self.held is not None:
            self.held.let_go(self.chance)
        if stroke is None:
            self.call.process.wait(COMMAND_S)
            return Trial(_NAME, self.aim.seed, counted=False)
        return self._judged(stroke, when)

    def _after(self, moment_s: float) -> bool | None:
        until = time.monotonic() + moment_s
        return moments.wait_for(lambda: time.monotonic() >= until, self.call.process, COMMAND_S)

    def _point(self, in_haste: bool) -> tuple[bool | None, list[psutil.Process]]:
        """Waits for the named point.

        Returns:
            Whether it came, as of `moments.wait_for`, and who must stand still first.
        """
        point = self.aim.point
        # Held in the wait for the machine, it has its id from the moment of the record on.
        by_record = point == "answered" and self.chance.random() < 0.5
        first = (
            self.call.engine(COMMAND_S) if point in _BY_ENGINE and self.sight.cloud is None else []
        )
        sign = SIGNS[point] if by_record or self.aim.hold is None else self._is_met
        came = moments.wait_for(lambda: sign(self.sight), self.call.process, COMMAND_S)
        if came and self.held is not None and not by_record:
            came = self.held.wait()
        if came and not in_haste:
            stays_s = _STAYS_S.get(point, 0.0) if self.held is None else _HELD_S
            time.sleep(self.chance.uniform(0, stays_s))
        return came, first

    def _is_met(self, sight: Sight) -> bool:
        assert self.aim.hold is not None
        return sight.has_met(self.aim.hold.op)

    def _struck(self, first: list[psutil.Process]) -> Stroke | None:
        return strike(self.call, self.aim.whom, lambda: self.sight.point, self.chance, first)

    def _judged(self, stroke: Stroke, when: str) -> Trial:
        missed = f", which was {stroke.point!r}" * (stroke.point != self.aim.point)
        what = f"on {self.aim.provider}" + f", {self.aim.kind}" * bool(self.aim.kind)
        faults = [f"SIGKILL of {stroke.whom} {when}{missed}, {what}"]
        let_go: Callable[[], None] = (lambda: None) if self.held is None else self.held.end
        found = []
        for run in self._runs():
            aftermath = Aftermath(
                self.shared.place,
                replace(self.call, run=run),
                VICTIMS[self.aim.provider, self.aim.kind],
                self.shared.starts,
                self.sight.cloud,
                self.chance,
                faults,
            )
            aftermath.follow(keeper_dead=stroke.whom in ("keeper", "all"), let_go=let_go)
            found.append(aftermath)
        return Trial(
            _NAME,
            self.aim.seed,
            tuple(faults),
            tuple(text for each in found for text in each.leaked),
            tuple(text for each in found for text in each.lost),
            (),
            tuple(text for each in found for text in each.problems),
            measured=tuple(f"{each.keeper_s:.1f} s of the keeper's" for each in found),
            point=stroke.point if self.aim.point else "",
        )

    def _runs(self) -> list[str]:
        """The run that was killed; where its machine is kept, the ones that came after it there first: its end waits for
        theirs."""
        home = self.call.home
        if self.aim.kind != KEPT:
            return [self.call.run]
        # One that lives goes on to its next call. What becomes of one that hangs is seen, and told, below.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.call.process.wait(COMMAND_S)

        def begun(run: str) -> float:
            return float(next((line["t"] for line in left.journal(home, run)), math.inf))

        return sorted(left.runs(home) - self.before, key=begun, reverse=True)


FAMILY = Family(_NAME, trials=500, sample=2, run=run, jobs=4)
