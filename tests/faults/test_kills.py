"""A client that is killed leaves no machine and loses no result, whenever it dies."""

from __future__ import annotations

import json
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dayfly.stacks.engine import Engine
from tests.engine.client import wait_until_closed
from tests.faults import kills
from tests.own_machine import own_machine, reachable

_REPORT = Path("build/kills.json")


def _report(tally: kills.Tally) -> None:
    _REPORT.parent.mkdir(exist_ok=True)
    _REPORT.write_text(json.dumps(tally.as_dict(), indent=2) + "\n")
    print(tally.headline, flush=True)


@pytest.mark.kills
def test_ten_kills_leave_nothing_and_lose_nothing(clean_environment: Path, engine: Engine) -> None:
    """SIGKILL in each of the steps 2 to 8; KILLS_SEED gives the same moments again."""
    seed = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(1 << 24))
    print(f"KILLS_SEED={seed}", flush=True)
    tally = kills.campaign(
        clean_environment, kills.WINDOWS, seed, lambda text: print(text, flush=True)
    )
    _report(tally)
    assert {trial.step for trial in tally.trials} == {2, 3, 4, 5, 6, 7, 8}
    assert not tally.failures


@pytest.mark.kills
@pytest.mark.sshd
def test_fifty_kills_leave_nothing_on_a_machine_of_one_s_own(
    clean_environment: Path,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its authorized_keys and its home are as they were before, to the byte."""
    seed = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(1 << 24))
    print(f"KILLS_SEED={seed}", flush=True)
    with own_machine(tmp_path) as machine, reachable(machine, monkeypatch):
        victim = replace(kills.VICTIM, asked=f'provider="ssh", host="{machine.name}"')
        rounds = int(os.environ.get("KILLS_ROUNDS", "5"))
        tally = kills.campaign(
            clean_environment,
            kills.WINDOWS * rounds,
            seed,
            lambda text: print(text, flush=True),
            victim,
        )
        print(tally.headline, flush=True)
        assert not tally.failures
        assert machine.is_clean, (machine.keys.read_text(), machine.left)


@pytest.mark.engine
@pytest.mark.long
def test_three_kills_leave_nothing_and_lose_nothing(
    clean_environment: Path, engine: Engine
) -> None:
    """The sample that every test run takes: while creating, while the function runs, while destroying."""
    tally = kills.campaign(clean_environment, kills.SAMPLE, 20_000, print)
    assert tally.headline == "3 kills, 0 sshd, 0 locks, 0 pending, 0 results lost"
    assert tally.trials[0].unaided
    assert not tally.failures


@pytest.mark.engine
@pytest.mark.long
def test_the_harness_sees_what_is_left_and_lost(
    clean_environment: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an attach and a gc after the kill, and no keeper, it must fail, else its zeros would mean nothing."""
    real = kills._cli

    def idle(*arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] in ("attach", "gc"):
            return subprocess.CompletedProcess(arguments, int(arguments[0] == "attach"), "", "idle")
        return real(*arguments)

    monkeypatch.setattr(kills, "_cli", idle)
    monkeypatch.setattr(kills, "_LAST_S", 0.5)
    tally = kills.campaign(clean_environment, [kills.WINDOWS[6]], 30_000, print)
    (trial,) = tally.trials
    assert any("loopback.py" in command for command in trial.processes)
    assert "attach ended with 1" in trial.lost
    assert trial.problems == ("the run is still open",)
    assert tally.open_runs == 1
    assert real("gc", "--yes", "--held").returncode == 0
    wait_until_closed(clean_environment, trial.run)
