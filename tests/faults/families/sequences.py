"""Random sequences of what can happen to runs on Lambda Cloud, without the engine, drawn by Hypothesis: I1 to I8 hold after each.

Of I3 it holds less than the other families: a second machine of a run is ended within 5 s here, which are 3,000 s of a cloud that
goes 600 times as fast. Slower, two thousand sequences would take hours, and some of the steps leave a run to nobody, or an API
without an answer, for longer than a minute of the cloud anyway. The minute itself is held where launches are carried out twice at
a slow scale: in the family `api`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from dayfly.errors import DayflyError, LeakRisk
from dayfly.runtime.context import Context
from dayfly.stacks.closer import Closer
from tests.emulators.lambda_cloud import Fault, Options
from tests.faults import left, power
from tests.faults.family import Family
from tests.faults.lambda_run import LambdaRun
from tests.faults.lambda_world import World, world
from tests.faults.place import Place
from tests.faults.trial import Trial

_NAME = "sequences"
_SCALE = 600.0
_TWIN_SLACK_S = 5.0 * _SCALE
_STEPS = 7
_LATE_S = 300.0
_KINDS = (
    "drop_before",
    "drop_after",
    "duplicate",
    "truncate",
    "not_json",
    "empty",
    "delay",
    "status",
)
_MAKING = ("launch", "add_ssh_key", "create_ruleset")
_OTHERS = ("terminate", "list_instances", "get_instance", "delete_ssh_key", "delete_ruleset")


def _machine(place: Place, cloud: World, done: list[str]) -> type[RuleBasedStateMachine]:
    """The state machine of this place and cloud."""

    class Runs(RuleBasedStateMachine):
        """One sequence: an empty account, then steps, then everything is closed and nothing may be left."""

        def __init__(self) -> None:
            super().__init__()
            self.before = left.runs(place.home)
            self.mine: list[LambdaRun] = []
            self.renewed = False
            self.late_until = 0.0

        def _say(self, text: str) -> None:
            done.append(text)

        # The first one without a choice: a sequence of nothing else is the simplest one, and costs nothing.
        @rule()
        def a_moment_passes(self) -> None:
            time.sleep(10.0 / _SCALE)

        @precondition(lambda self: not self.renewed)
        @rule(lag=st.sampled_from([0.0, 10.0, 55.0]))
        def b_new_account(self, lag: float) -> None:
            cloud.renew(_options(lag))
            self.renewed = True

        @rule(
            kind=st.sampled_from(_KINDS), op=st.sampled_from(_MAKING + _OTHERS), twice=st.booleans()
        )
        def fault(self, kind: Any, op: str, twice: bool) -> None:
            at = (1, 2) if twice else (1,)
            delay_s = _LATE_S if kind == "delay" else 0.0
            cloud.cloud.add_faults([Fault(op, kind, at=at, delay_s=delay_s)])

        @rule(kind=st.sampled_from(_KINDS[:4]))
        def fault_of_launch(self, kind: Any) -> None:
            cloud.cloud.add_faults([Fault("launch", kind, at=(1,))])

        @precondition(lambda self: len(self.mine) < 2)
        @rule()
        def up(self) -> None:
            with contextlib.suppress(DayflyError):
                started = LambdaRun.begin(cloud)
                self.mine.append(started)
                started.up()

        @rule(after_s=st.floats(0, 0.25), late=st.sampled_from((*_MAKING, "")))
        def up_and_power_cut(self, after_s: float, late: str) -> None:
            """What is late is carried out when all who asked for it are dead."""
            before = left.runs(place.home)
            if late:
                cloud.cloud.add_faults([Fault(late, "delay", at=(1,), delay_s=_LATE_S)])
                self.late_until = time.monotonic() + 2 * _LATE_S / _SCALE
            pid = _up_elsewhere(cloud)
            time.sleep(after_s)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for run in left.runs(place.home) - before:
                power.cut(place.home / "runs" / run)
            done.append(f"SIGKILL and power cut after {after_s:.3f} s of up")

        @rule(after_s=st.floats(0, 0.1))
        def up_and_closed_meanwhile(self, after_s: float) -> None:
            """A provider process that nobody knows of sleeps while the run is closed, and goes on afterwards."""
            with contextlib.suppress(DayflyError):
                started = LambdaRun.begin(cloud)
                pid = _up_elsewhere(cloud, started)
                try:
                    _stop_without_locks(pid, place.home, started.id, after_s)
                    with contextlib.suppress(LeakRisk):
                        started.close()
                finally:
                    os.kill(pid, signal.SIGCONT)
                    os.waitpid(pid, 0)
                done.append(f"closed after {after_s:.3f} s of up")

        @precondition(lambda self: self.mine)
        @rule(number=st.integers(0, 1))
        def delete(self, number: int) -> None:
            self.mine[number % len(self.mine)].delete()

        @precondition(lambda self: self.mine)
        @rule(number=st.integers(0, 1))
        def close(self, number: int) -> None:
            chosen = self.mine[number % len(self.mine)]
            with contextlib.suppress(LeakRisk):
                chosen.close()
                assert not _alive(cloud, chosen.id), f"{chosen.id} was called gone and is alive"
                self.mine.remove(chosen)

        # Seldom, since a command takes longer than all the rest.
        @rule(now=st.sampled_from([False, False, False, True]))
        def gc(self, now: bool) -> None:
            if now:
                place.dayfly("gc", "--yes")

        def teardown(self) -> None:
            cloud.cloud.clear_faults()
            done.extend(cloud.fired())
            runs = left.runs(place.home) - self.before
            for run in sorted(runs):
                Closer(Context.open().workspace, None).close(run)
            time.sleep(max(0.0, self.late_until - time.monotonic()))
            leaked, problems = place.broken_promises(*runs)
            found = leaked + cloud.leaked() + problems + cloud.broken(slack_s=_TWIN_SLACK_S)
            assert not found, "; ".join(found)

    return Runs


def _options(lag_s: float) -> Options:
    return Options(
        machines=False,
        time_scale=_SCALE,
        listing_lag_s=lag_s,
        terminating_s=4.0,
        boot_s=6.0,
        ip_s=10.0,
        request_interval_s=0.0,
        launch_interval_s=0.0,
    )


def _up_elsewhere(cloud: World, started: LambdaRun | None = None) -> int:
    """Client and provider in a process of their own, of which is known what it has brought to the disk."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            if started is None:
                power.remember_synced()
            (started or LambdaRun.begin(cloud)).up()
        os._exit(0)
    return pid


def _stop_without_locks(pid: int, home: Path, run: str, after_s: float) -> None:
    """Stops it where nobody has to wait for it: in the midst of a request, everybody would, as they should."""
    while True:
        time.sleep(after_s)
        os.kill(pid, signal.SIGSTOP)
        own = (home / "runs" / run / name for name in ("fence", "journal.jsonl"))
        if all(map(_is_free, (*own, *home.glob("pace/*")))):
            return
        os.kill(pid, signal.SIGCONT)
        after_s = 0.005


def _is_free(file: Path) -> bool:
    if not file.exists():
        return True
    with file.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _alive(cloud: World, run: str) -> bool:
    return any(run in str(row["tags"]) for row in cloud.cloud.live())


def run(place: Place, seeds: Iterator[int]) -> Iterator[Trial]:
    """One sequence a seed; the simplest one, which Hypothesis always tries first, goes before it."""
    with world(place.home, _options(10.0)) as cloud:
        for number in seeds:
            yield _trial(place, cloud, number)


def _trial(place: Place, cloud: World, number: int) -> Trial:
    done: list[str] = []
    cloud.renew(_options(random.Random(number).choice([0.0, 10.0, 55.0])))
    machine = seed(number)(_machine(place, cloud, done))
    quiet = settings(
        max_examples=2,
        stateful_step_count=_STEPS,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    problems = []
    try:
        run_state_machine_as_test(machine, settings=quiet)
    except Exception as error:  # noqa: BLE001  # whatever a sequence ends with, it is what the trial found
        last = traceback.extract_tb(error.__traceback__)[-1]
        steps = getattr(error, "__notes__", ())
        problems.append(f"{type(error).__name__}: {error} ({last.name}); {' '.join(steps)}")
    return Trial(_NAME, number, tuple(done), (), (), (), tuple(problems))


FAMILY = Family(_NAME, trials=2000, sample=4, run=run, engine=False, jobs=6)
