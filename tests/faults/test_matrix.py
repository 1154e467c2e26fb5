"""A sample of the crash matrix, and the harness itself: what it counts, what it takes up again, when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.runtime import entrust
from dayfly.runtime.context import Context
from dayfly.stacks.engine import Engine
from tests import keepers
from tests.faults import __main__ as command
from tests.faults import campaign, family, left, place, self_check
from tests.faults.campaign import Records, Summary
from tests.faults.family import Family
from tests.faults.kill_call import Call, kind_of
from tests.faults.place import Place
from tests.faults.shard import WHOLE, Shard
from tests.faults.trial import Trial, headline

_SEED = 20_000
_LIMIT_S = 300.0


@pytest.mark.faults
@pytest.mark.engine
@pytest.mark.sshd
@pytest.mark.parametrize("name", family.names())
def test_a_sample_of_every_family_leaves_and_loses_nothing(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    """The command itself, with few and small trials and fixed seeds."""
    options = ["--family", name, "--sample", "--seed", str(_SEED)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *options, "--records", str(tmp_path / "records")],
        cwd=campaign.ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.strip().splitlines()
    assert last.endswith("0 instances leaked, 0 results lost, 0 secrets found")
    assert not last.startswith("0 faults")


@pytest.mark.faults
@pytest.mark.process
@pytest.mark.parametrize(("rule", "seed"), [("proof", 5), ("adoption", 5)])
def test_a_safety_rule_that_is_switched_off_is_noticed(rule: str, seed: int) -> None:
    """Else the zeros of the matrix would mean nothing; `--self-check` tries all five."""
    assert self_check.noticed(rule, seed).startswith("noticed by sequences seed")


# -- the harness


def _family(*wrong: int, uncounted: int = 0) -> Family:
    """Trials in which nothing happens but what is said here."""

    def run(_: Place, seeds: Iterator[int]) -> Iterator[Trial]:
        for seed in seeds:
            yield Trial(
                "quiet",
                seed,
                ("nothing",),
                leaked=("a machine",) if seed in wrong else (),
                counted=seed >= uncounted,
            )

    return Family("quiet", trials=6, sample=1, run=run, engine=False, jobs=1)


def _work(quiet: Family, wanted: int, records: Records, shard: Shard = WHOLE) -> list[str]:
    said: list[str] = []
    campaign.work(quiet, wanted, 0, shard, records=records, say=said.append)
    return said


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "faults.jsonl", "code")


def test_a_campaign_goes_on_where_it_was_broken_off(records: Records) -> None:
    """No seed is tried twice, and trials of other code do not count."""
    _work(_family(), 2, records)
    _work(_family(), 4, records)
    assert [trial.seed for trial in records.trials("quiet")] == [0, 1, 2, 3, 4, 5]
    assert Records(records.file, "other code").trials("quiet") == []
    summary = Summary.of([(_family(), 6)], records, WHOLE, 0)
    assert summary.text == headline(records.trials("quiet"))
    assert summary.text.startswith("6 faults injected, 0 instances leaked")


def test_a_trial_that_did_not_count_is_made_again(records: Records) -> None:
    """With another seed; where none counts, it ends with an error."""
    _work(_family(uncounted=3), 2, records)
    assert [trial.counted for trial in records.trials("quiet")] == [False] * 3 + [True] * 2
    with pytest.raises(AssertionError, match="0 of 1 trials counted"):
        _work(_family(uncounted=1000), 1, records)


def test_what_is_skipped_is_named(records: Records) -> None:
    """The headline covers finished trials only, and says what it does not cover."""
    _work(_family(), 2, records)
    summary = Summary.of([(_family(), 6)], records, WHOLE, 0)
    assert summary.skipped == ("quiet (2 of 6 trials)",)
    assert "skipped: quiet (2 of 6 trials)" in summary.text


def test_whatever_did_not_hold_is_a_failure(records: Records) -> None:
    """With its seed."""
    said = _work(_family(1), 2, records)
    summary = Summary.of([(_family(), 2)], records, WHOLE, 0)
    assert summary.failures == [said[1]]
    assert "quiet seed 1: nothing: leaked: a machine" in said[1]
    assert "1 instances leaked" in summary.text
    assert summary.as_dict()["families"]["quiet"]["seeds"] == [0, 1]


def test_shards_share_the_seeds(records: Records) -> None:
    """Every seed is of one shard, and the parts of a shard are of it."""
    parts = [Shard.parse(f"{number}/3") for number in (1, 2, 3)]
    assert [part.share(10) for part in parts] == [4, 3, 3]
    assert all(sum(part.has(seed) for part in parts) == 1 for seed in range(30))
    inner = [parts[1].part(number, 2) for number in (0, 1)]
    assert [str(part) for part in inner] == ["2/6", "5/6"]
    assert [next(part.seeds(100)) for part in inner] == [103, 100]
    with pytest.raises(ValueError, match="write i/n"):
        Shard.parse("3/2")


def test_one_family_alone_is_not_the_whole_matrix(
    records: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 3 where families are missing, 1 where something did not hold, else 0."""
    monkeypatch.setattr(command, "names", lambda: ["quiet", "other"])
    other = Family("other", 1, 1, _family().run, engine=False)
    monkeypatch.setattr(command, "load", lambda name: _family() if name == "quiet" else other)
    monkeypatch.setattr(campaign, "code_digest", lambda: "code")

    def share_out(quiet: Family, wanted: int, *_: object, **__: object) -> bool:
        _work(quiet, wanted, records)
        return True

    monkeypatch.setattr(campaign, "share_out", share_out)
    arguments = ["--records", str(records.file), "--family", "quiet"]
    assert command.main(arguments) == 3
    assert "skipped: other (0 of 1 trials)" in capsys.readouterr().out
    assert command.main([*arguments, "--trials", "2"]) == 0
    records.add(Trial("quiet", 99, ("one",), lost=("a result",)))
    assert command.main([*arguments, "--trials", "2", "--resume"]) == 1
    report = json.loads(records.file.with_suffix(".json").read_text())
    assert report["failures"] == ["quiet seed 99: one: lost: a result"]


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
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleep, env={"DAYFLY_RUN": run}) as process:
        where = Place(tmp_path, (process,))
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
