"""A client that is killed leaves no machine and loses no result, whenever it dies."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dayfly.stacks.engine import Engine
from tests.engine.client import wait_until_closed
from tests.faults import kills, self_check
from tests.faults.records import ROOT, Records
from tests.faults.trial import headline
from tests.faults.vendor_aim import CLOUDS, Aim
from tests.own_machine import own_machine, reachable

_REPORT = Path("build/kills.json")
# Ten kills each.
_ROUNDS = int(os.environ.get("KILLS_ROUNDS", "5"))


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
        tally = kills.campaign(
            clean_environment,
            kills.WINDOWS * _ROUNDS,
            seed,
            lambda text: print(text, flush=True),
            victim,
        )
        print(tally.headline, flush=True)
        assert not tally.failures
        assert machine.is_clean, (machine.keys.read_text(), machine.left)


@pytest.mark.kills
@pytest.mark.sshd
def test_fifty_kills_in_each_cloud_leave_nothing_and_lose_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    """Its client, its keeper or all of ours, at any moment; the accounts tell what is left, and of each kill the seed is told."""
    seed = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(1 << 24))
    wanted = 10 * _ROUNDS
    print(f"KILLS_SEED={seed}", flush=True)
    command = [sys.executable, "-m", "tests.faults", "--family", "clouds", "--seed", str(seed)]
    command += ["--trials", str(wanted * len(CLOUDS)), "--records", str(tmp_path / "records")]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    made = [t for t in Records.open(tmp_path / "records").trials("clouds") if t.counted]
    for cloud in CLOUDS:
        own = [trial for trial in made if Aim.of(trial.seed).cloud == cloud]
        print(f"{cloud}: {len(own)} kills, {headline(own)}", flush=True)
        assert len(own) == wanted
    assert code == 0


@pytest.mark.kills
@pytest.mark.sshd
@pytest.mark.parametrize(("rule", "seed"), [("listing", 144), ("listing of all kinds", 146)])
def test_what_is_not_listed_is_noticed_in_a_cloud(rule: str, seed: int, engine: Engine) -> None:
    """Else the zeros there would mean nothing; with the rule in force the same kill leaves nothing."""
    assert self_check.noticed(rule, seed).startswith("noticed by clouds seed")


@pytest.mark.kills
def test_three_kills_leave_nothing_and_lose_nothing(
    clean_environment: Path, engine: Engine
) -> None:
    """While creating, while the function runs, while destroying; every test run takes a sample of the matrix's kills."""
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
