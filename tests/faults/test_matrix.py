"""A sample of the crash matrix, and what its trials look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dayfly.runtime import entrust
from dayfly.runtime.context import Context
from dayfly.stacks.engine import Engine
from tests import keepers
from tests.faults import family, left, place, self_check
from tests.faults.kill_call import Call, kind_of
from tests.faults.place import Place
from tests.faults.records import ROOT

_SEED = 20_000
_LIMIT_S = 300.0
# One kill in a vendor's cloud takes half a minute on a busy computer; tests/engine/test_{aws,azure,gcp}.py have one each.
_ELSEWHERE = "clouds"


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.engine
@pytest.mark.sshd
@pytest.mark.parametrize("name", [name for name in family.names() if name != _ELSEWHERE])
def test_a_sample_of_every_family_leaves_and_loses_nothing(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    """The command itself, with few and small trials and fixed seeds."""
    options = ["--family", name, "--sample", "--seed", str(_SEED)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *options, "--records", str(tmp_path / "records")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last, minutes = done.stdout.strip().splitlines()
    assert last.endswith("0 instances leaked, 0 results lost, 0 secrets found")
    assert not last.startswith("0 faults")
    assert minutes.startswith(f"minutes: {name}")


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.process
@pytest.mark.parametrize(("rule", "seed"), [("proof", 5), ("adoption", 20)])
def test_a_safety_rule_that_is_switched_off_is_noticed(rule: str, seed: int) -> None:
    """Else the zeros of the matrix would mean nothing; `--self-check` tries all. With the rule the same trial holds."""
    assert self_check.noticed(rule, seed).startswith("noticed by sequences seed")


# -- the harness


def test_what_is_left_is_seen_without_the_product(tmp_path: Path) -> None:
    """A process by its mark, a lock, an operation that never ended, a stack."""
    run = "a" * 32
    state = tmp_path / "state/.pulumi/stacks/dayfly"
    state.mkdir(parents=True)
    latest = {"pending_operations": [{"type": "creating"}]}
    (state / f"{run}.json").write_text(json.dumps({"checkpoint": {"latest": latest}}))
    lock = tmp_path / "state/.pulumi/locks/organization/dayfly" / run / "lock.json"
    lock.parent.mkdir(parents=True)
    lock.touch()
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    with subprocess.Popen(sleep, env={"DAYFLY_RUN": run}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # The kernel shows its environment a moment after Popen returns.
        where = Place(tmp_path, tmp_path, (process,))
        assert len(where.settled(run, wait_s=0.1)) == 1
        alive, problems = where.broken_promises(run, wait_s=0.1)
        process.kill()
    assert len(alive) == 1
    assert [text.split()[0] for text in problems] == ["run", "lock", "pending", "stack"] + [
        f"{tmp_path}"
    ] * (tmp_path.stat().st_mode & 0o077 != 0)
    assert left.locks(tmp_path) == [lock]
    assert where.touched_strangers() == [f"process {process.args!r} was ended, and it is not ours"]


@pytest.mark.process
def test_a_kill_can_hit_the_keeper_and_no_place_leaves_one() -> None:
    """It names no run, so it is found by its home; what it does about a run names that."""
    with place.place() as where:
        started = entrust.call(Context.open().workspace)
        keeper = keepers.started(where.home)
        assert started is not None and keeper.pid == started.pid
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as client:
            call = Call(where.home, 0, client, "a" * 32)
            assert {kind: each[0].pid for kind, each in call.targets().items()} == {
                "client": client.pid,
                "keeper": keeper.pid,
            }
            client.kill()
    assert started.wait(10) == 0
    act = [sys.executable, "-P", "-m", "dayfly.runtime.tend", "a" * 32]
    assert kind_of(act) == "act of the keeper"
