"""The crash matrix's own books: what it counts, what it takes up again and what it makes anew, and when it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import __main__ as command
from tests.faults import campaign, family, moments, summary
from tests.faults import records as books
from tests.faults.family import Family
from tests.faults.place import Place
from tests.faults.records import Records, code_digest
from tests.faults.shard import Shard
from tests.faults.share import TRIES, Share
from tests.faults.summary import LEAST_AT_A_POINT, Summary
from tests.faults.trial import Trial, headline


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

    return Family("quiet", trials=6, sample=1, run=run, engine=False, jobs=1, cells=3)


def _work(share: Share, records: Records) -> list[str]:
    said: list[str] = []
    campaign.work(share, records=records, say=said.append)
    return said


def _seeds(records: Records) -> list[int]:
    return [trial.seed for trial in records.trials("quiet")]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "faults.jsonl", "code")


def test_a_campaign_goes_on_where_it_was_broken_off(records: Records) -> None:
    """No trial is made twice and none is left out, and trials of other code do not count."""
    _work(Share(_family(), 6, 0, Shard(1, 2)), records)
    assert _seeds(records) == [1, 3, 5]
    _work(Share(_family(), 6, 0), records)
    assert _seeds(records) == [1, 3, 5, 0, 2, 4]
    assert Records(records.file, "other code").trials("quiet") == []
    found = Summary.of([Share(_family(), 6, 0)], records)
    assert found.text == headline(records.trials("quiet")) + "\nminutes: quiet 0.0; together 0.0"
    assert found.text.startswith("6 faults injected, 0 instances leaked")


def test_a_trial_that_did_not_count_is_made_again(records: Records) -> None:
    """With another seed for the same thing; where none counts, that is a failure, and names it."""
    share = Share(_family(uncounted=7), 3, 0)
    _work(share, records)
    assert _seeds(records) == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    counted = [trial for trial in records.trials("quiet") if trial.counted]
    assert [trial.seed % share.family.cells for trial in counted] == [0, 1, 2]
    assert _work(share, records) == []
    said = _work(Share(_family(uncounted=10_000), 1, 1000), records)
    assert len(said) == TRIES + 1
    assert said[-1].endswith(f"nothing: its fault did not come in {TRIES} tries")
    found = Summary.of([Share(_family(), 1, 1000)], records)
    assert [trial.problems for trial in found.failed] == [("its fault did not come in 6 tries",)]
    assert not found.skipped


def test_a_trial_that_was_cut_short_is_not_written_down(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it seemed to find when its process was told to end: it is made again when the campaign goes on."""
    monkeypatch.setattr(campaign, "_told_to_end", threading.Event())

    def run(_: Place, seeds: Iterator[int]) -> Iterator[Trial]:
        for seed in seeds:
            if seed == 1:
                with contextlib.suppress(SystemExit):
                    campaign.end(signal.SIGTERM)
            yield Trial("quiet", seed, problems=("a flaky failure",) * (seed == 1))

    with pytest.raises(SystemExit) as ended:
        _work(Share(dataclasses.replace(_family(), run=run), 3, 0), records)
    assert ended.value.code == 143
    assert _seeds(records) == [0]


@pytest.mark.parametrize("name", family.names())
@pytest.mark.parametrize("seed", [0, 794_199_082])
def test_further_seeds_of_a_trial_are_no_other_trials(name: str, seed: int) -> None:
    """Whatever the first seed is, each number has seeds of its own, a multiple of the family's cells apart."""
    each = family.load(name)
    share = Share(each, each.trials, seed)
    assert len(share.numbers) == each.trials
    assert share.stride % each.cells == 0
    of = {share.seed_of(number, attempt): number for number in share.numbers for attempt in (0, 5)}
    assert len(of) == 2 * each.trials
    assert all(share.number_of(seed) == number for seed, number in of.items())
    assert share.number_of(seed - 1) is None


def test_what_is_skipped_is_named(records: Records) -> None:
    """The headline covers finished trials only, and says what it does not cover."""
    _work(Share(_family(), 2, 0), records)
    found = Summary.of([Share(_family(), 6, 0)], records)
    assert found.skipped == ("quiet (2 of 6 trials)",)
    assert "skipped: quiet (2 of 6 trials)" in found.text


def test_whatever_did_not_hold_is_a_failure(records: Records) -> None:
    """With its seed; how long it all took stands beside it, over all times that it was taken up."""
    said = _work(Share(_family(1), 2, 0), records)
    records.add_took("quiet", 90.0)
    records.add_took("quiet", 30.0)
    found = Summary.of([Share(_family(), 2, 0)], records)
    assert [str(trial) for trial in found.failed] == [said[1]]
    assert "quiet seed 1: nothing: leaked: a machine" in said[1]
    assert "1 instances leaked" in found.text
    assert "minutes: quiet 2.0; together 2.0" in found.text
    told = found.as_dict()
    assert told["took_s"] == told["families"]["quiet"]["took_s"] == 120.0
    assert told["families"]["quiet"]["seeds"] == [0, 1]


def test_a_full_run_has_hit_every_named_point(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So often at least, by what the trials themselves say."""
    monkeypatch.setitem(summary._POINTS, "quiet", ("accepted", "running"))
    for seed in range(LEAST_AT_A_POINT + 5):
        records.add(Trial("quiet", seed, ("one",), point="accepted" if seed % 7 else "running"))
    share = Share(_family(), LEAST_AT_A_POINT + 5, 0)
    assert Summary.of([share], records).thin == ()
    found = Summary.of([share], records, points_of=["quiet"])
    assert found.thin == ("quiet at 'running' (5 of 30)",)
    assert "too few: quiet at 'running' (5 of 30)" in found.text
    points = found.as_dict()["families"]["quiet"]["points"]
    assert points == {"accepted": LEAST_AT_A_POINT, "running": 5}
    assert set(summary._POINTS["kills"]) == set(moments.POINTS)


def test_shards_share_the_trials(records: Records) -> None:
    """Every trial is of one shard, and the parts of a shard are of it."""
    parts = [Shard.parse(f"{number}/3") for number in (1, 2, 3)]
    assert [len(Share(_family(), 10, 7, part).numbers) for part in parts] == [4, 3, 3]
    assert all(sum(part.has(number) for part in parts) == 1 for number in range(30))
    inner = [Share(_family(), 10, 7, parts[1]).part(number, 2) for number in (0, 1)]
    assert [str(share.shard) for share in inner] == ["2/6", "5/6"]
    assert [share.numbers for share in inner] == [[1, 7], [4]]
    with pytest.raises(ValueError, match="write i/n"):
        Shard.parse("3/2")


# -- the command


@pytest.fixture
def quiet(records: Records, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command with two families, both quiet, whose trials are made in this process; its arguments."""
    monkeypatch.setattr(command, "names", lambda: ["quiet", "other"])
    other = Family("other", 1, 1, _family().run, engine=False)
    monkeypatch.setattr(command, "load", lambda name: _family() if name == "quiet" else other)
    monkeypatch.setattr(books, "code_digest", lambda: records.code)

    def share_out(share: Share, _missing: int, found: Records, **_: object) -> bool:
        _work(share, found)
        return True

    monkeypatch.setattr(campaign, "share_out", share_out)
    monkeypatch.setattr(command, "_BUILD", records.file.parent)
    return ["--family", "quiet"]


def test_one_family_alone_is_not_the_whole_matrix(
    quiet: list[str], records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 3 where families are missing, 1 where something did not hold, else 0."""
    assert command.main([*quiet, "--seed", "70"]) == 3
    assert "skipped: other (0 of 1 trials)" in capsys.readouterr().out
    assert command.main([*quiet, "--trials", "2"]) == 0
    records.add(Trial("quiet", 71, ("one",), lost=("a result",)))
    assert command.main([*quiet, "--resume"]) == 1
    said = capsys.readouterr().out
    assert (
        "quiet seed 71: one: lost: a result\n  again: make test-faults ONLY=quiet SEED=71" in said
    )
    report = json.loads(records.file.with_suffix(".json").read_text())
    assert report["failures"] == ["quiet seed 71: one: lost: a result"]


def test_what_is_taken_up_again_keeps_its_seed(
    quiet: list[str], records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else some things would be tried twice and others never; a seed of another campaign is refused."""
    assert command.main([*quiet, "--resume"]) == 3
    seed, before = records.seed, records.file.read_text()
    assert command.main([*quiet, "--resume"]) == 3
    assert (records.seed, records.file.read_text()) == (seed, before)
    assert command.main([*quiet, "--resume", "--seed", "0"]) == 2
    assert f"was begun with seed {seed}; leave --seed out" in capsys.readouterr().out
    assert command.main([*quiet, "--resume", "--seed", str(seed)]) == 3


def test_a_trial_that_is_made_again_leaves_all_records_alone(
    quiet: list[str], records: Records
) -> None:
    """It has a file of its own; and a campaign that is begun anew puts the old one aside."""
    assert command.main([*quiet, "--seed", "3"]) == 3
    before = records.file.read_text()
    assert command.main([*quiet, "--seed", "5", "--trials", "1"]) == 0
    assert command.main([*quiet, "--sample"]) == 0
    assert records.file.read_text() == before
    again = Records(records.file.with_name("faults-again.jsonl"), records.code)
    assert _seeds(again) == [5]
    assert command.main([*quiet, "--seed", "4"]) == 3
    assert records.seed == 4
    assert records.file.with_name("faults.1.jsonl").read_text() == before


def test_parts_on_several_computers_begin_with_the_same_seed(
    quiet: list[str], records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows from the code, so that together they try everything once."""
    monkeypatch.setattr(books, "code_digest", lambda: "00000000000000ff")
    # The second part has none of a family of one trial, so that nothing is missing there.
    for shard, code in {"1/2": 3, "2/2": 0}.items():
        assert command.main([*quiet, "--shard", shard]) == code
        assert Records.open(records.file).seed == 255


def test_the_digest_is_that_of_everything_that_a_trial_runs(tmp_path: Path) -> None:
    """Also of what is no Python: the C source of a driver, prices, scripts; not of what is made of it."""
    files = (
        "runtime/agent.py",
        "tests/emulators/libcuda.c",
        "infra/prices/x.csv",
        "pyproject.toml",
    )
    digests = Counter([code_digest(tmp_path)])
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
        digests[code_digest(tmp_path)] += 1
        (tmp_path / name).write_text("two")
        digests[code_digest(tmp_path)] += 1
    assert len(digests) == 1 + 2 * len(files)
    (tmp_path / "runtime/__pycache__").mkdir()
    (tmp_path / "runtime/__pycache__/agent.pyc").write_text("compiled")
    assert code_digest(tmp_path) in digests
