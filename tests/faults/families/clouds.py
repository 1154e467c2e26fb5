"""SIGKILL for the client of a call to a vendor's cloud, with its keeper or with all else of ours, at any moment: nothing of the
run is left in the account, by the account's own word, nothing of somebody else's is gone, and no result is lost.

Every second kill comes at any moment from the client's start to its end, each other one in a window of the run's life.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults import left, moments
from tests.faults.aftermath import Aftermath
from tests.faults.family import Family
from tests.faults.kill_call import Call, strike
from tests.faults.own_keys import OwnKeys
from tests.faults.place import COMMAND_S, Place
from tests.faults.starts import starts
from tests.faults.trial import Trial
from tests.faults.vendor_aim import ASKED, CELLS, CLOUDS, Aim, Window
from tests.faults.vendor_stand import Stand, stand

_NAME = "clouds"


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """What each seed is for is `Aim.of`'s to say."""
    with starts() as told, contextlib.ExitStack() as stack:
        stands: dict[str, Stand] = {}
        for seed in seeds:
            aim = Aim.of(seed)
            if aim.cloud not in stands:
                stands[aim.cloud] = stack.enter_context(stand(aim.cloud, told, place.shared))
            with stands[aim.cloud].entered():
                yield _trial(stands[aim.cloud], aim)


def _trial(where: Stand, aim: Aim) -> Trial:
    lasts_s = where.lasts_s(aim.seed) if aim.window is None else 0.0
    before, asked_for = left.runs(where.place.home), where.cloud.asked_for()
    with OwnKeys(where.place.home) as keys:
        client = where.client(aim.seed)
        try:
            return _Kill(where, aim, client, before, asked_for, keys, lasts_s).made()
        finally:
            client.kill()
            client.wait()


@dataclass(frozen=True)
class _Kill:
    """One kill, from the wait for its moment to the proof that nothing is left."""

    where: Stand
    aim: Aim
    client: subprocess.Popen[bytes]
    before: set[str]
    asked_for: int
    keys: OwnKeys
    lasts_s: float

    def made(self) -> Trial:
        """The trial."""
        chance = random.Random(self.aim.seed)
        came = self._has_come(chance)
        if came is None:
            said = f"its moment did not come: {self.where.place.said(self.aim.seed)}"
            return Trial(_NAME, self.aim.seed, problems=(said,))
        if not came:
            # Nobody was killed: what it leaves must be nothing as well.
            self.client.wait(COMMAND_S)
            leaked = tuple(self.where.cloud.leaked())
            return Trial(_NAME, self.aim.seed, counted=bool(leaked), leaked=leaked)
        if not self._run:
            return self._unborn()
        return self._struck(self._run, chance)

    @property
    def _run(self) -> str:
        """The client's, "" where it has none yet."""
        return next(iter(left.runs(self.where.place.home) - self.before), "")

    def _has_come(self, chance: random.Random) -> bool | None:
        """Waits for the moment, as `moments.wait_for` does."""
        window = self.aim.window
        if window is not None:
            opened = moments.wait_for(lambda: self._is_open(window), self.client, COMMAND_S)
            if not opened:
                return opened
        until = time.monotonic() + chance.uniform(0, window.width_s if window else self.lasts_s)
        return moments.wait_for(lambda: time.monotonic() >= until, self.client, COMMAND_S)

    def _is_open(self, window: Window) -> bool:
        told = left.events(self.where.place.home, self._run) if self._run else []
        if window.after != ASKED:
            return window.after in told
        return "up_started" in told and self.where.cloud.asked_for() > self.asked_for

    def _unborn(self) -> Trial:
        """There is no run: nor is there anything else, unless the client has made one just now."""
        self.client.kill()
        self.client.wait()
        if self._run:
            return Trial(_NAME, self.aim.seed, counted=False)
        return Trial(
            _NAME,
            self.aim.seed,
            (f"SIGKILL of client before its run, on {self.aim.cloud}",),
            tuple(self.where.cloud.leaked()),
            secrets=tuple(self.where.secrets()),
            problems=tuple(self.where.cloud.broken()),
            point="before the intent",
        )

    def _struck(self, run: str, chance: random.Random) -> Trial:
        home = self.where.place.home
        call = Call(home, self.aim.seed, self.client, run)
        stroke = strike(call, self.aim.whom, lambda: _point(self.where, run), chance)
        if stroke is None:
            return Trial(_NAME, self.aim.seed, counted=False)
        faults = [f"SIGKILL of {stroke.whom} after {stroke.point!r}, on {self.aim.cloud}"]
        after = Aftermath(
            self.where.place,
            call,
            self.where.victim,
            self.where.starts,
            self.where.cloud,
            chance,
            faults,
            by_hand=True,
        )
        after.follow(keeper_dead=stroke.whom != "client", let_go=lambda: None)
        machines = self.where.cloud.launches(run)
        too_many = [f"{machines} machines were launched for the run"] * (machines > 1)
        return Trial(
            _NAME,
            self.aim.seed,
            tuple(faults),
            tuple(after.leaked),
            tuple(after.lost),
            (*self.where.secrets(), *sorted(self.keys.found)),
            (*after.problems, *too_many),
            measured=(f"{after.keeper_s:.1f} s of the keeper's",),
            point=stroke.point,
        )


def _point(where: Stand, run: str) -> str:
    """The last event of its journal that is no mere progress; "receipt" where it is closed."""
    directory = where.place.home / "runs" / run
    if (directory / "receipt.json").exists():
        return "receipt"
    told = [event for event in left.events(where.place.home, run) if event != "progress"]
    return told[-1] if told else "before the intent"


FAMILY = Family(_NAME, trials=50 * len(CLOUDS), sample=1, run=run, cells=CELLS)
