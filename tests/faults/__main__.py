"""`python -m tests.faults`: the crash matrix. Exit code 0: all families whole and nothing wrong; 1: something did not
hold, or a named point was hit too seldom; 2: wrong arguments; 3: nothing wrong, but families were skipped."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults import campaign, self_check, switches
from tests.faults.family import Family, load, names
from tests.faults.records import ROOT, Records
from tests.faults.shard import WHOLE, Shard
from tests.faults.share import Share
from tests.faults.summary import Summary
from tests.faults.switches import SWITCHES

_BUILD = ROOT / "build"


class _WrongArguments(Exception):
    """They contradict what has been tried."""


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--family", choices=names(), action="append", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--shard",
        type=Shard.parse,
        default=WHOLE,
        metavar="I/N",
        help="only this part of each family",
    )
    parser.add_argument(
        "--trials",
        type=int,
        help="so many of each family, instead of a full run's, with a record of their own",
    )
    parser.add_argument(
        "--sample",
        action="store_true",
        help="as few of each family, and as small, as in `make test`",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="of the first trial; by default that of the campaign that is taken up again, else a random one, and with"
        " --shard one that follows from the code, so that the parts fit together",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the campaign of the same code, and count its trials",
    )
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--without",
        choices=sorted(SWITCHES),
        help="with one safety rule of the product switched off",
    )
    parser.add_argument(
        "--self-check", action="store_true", help="switch off each rule and see it noticed"
    )
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shared", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.full = options.trials is None and not options.sample
    if options.records is None:
        # The trials of a sample, or some that are made again, do not count for a full run, and replace only their like.
        name = "faults" if options.full else "faults-sample" if options.sample else "faults-again"
        options.records = _BUILD / f"{name}.jsonl"
    return options


def main(given: Sequence[str]) -> int:
    """The command."""
    options = _arguments(given)
    # So that whoever is ended ends its workers, and they leave nothing of their places.
    signal.signal(signal.SIGTERM, campaign.end)
    if options.self_check:
        return self_check.run(options.without, _any_seed(options), _say)
    if options.work is not None:
        return _work(options)
    records = Records.open(options.records)
    try:
        seed = _begun(options, records)
    except _WrongArguments as wrong:
        _say(str(wrong))
        return 2
    sample = " with `--sample`" if options.sample else ""
    _say(
        f"seed {seed}, shard {options.shard}; `python -m tests.faults --family F --seed S --trials 1`{sample} makes a trial"
        " again, and leaves these records alone"
    )
    broken = []
    for share in _shares(options, options.family or names(), seed):
        missing = len(share.missing(records.trials(share.family.name)))
        if missing and not campaign.share_out(share, missing, records, sample=options.sample):
            broken.append(share.family.name)
    return _report(records, options, seed, broken)


def _work(options: argparse.Namespace) -> int:
    """One process's part, which another one has given it."""
    # A terminal sends it to all of them.
    signal.signal(signal.SIGINT, campaign.end)
    if options.without:
        switches.apply(options.without)
        os.environ |= switches.environment(options.without)
    records = Records.open(options.records)
    for family in _families(options, options.family or names()):
        campaign.work(
            Share(family, options.work, options.seed, options.shard),
            records=records,
            say=_say,
            shared=options.shared,
            until_wrong=options.without is not None,
        )
    return 0


def _begun(options: argparse.Namespace, records: Records) -> int:
    """The seed of the campaign that is begun, or gone on with.

    Raises:
        _WrongArguments: it was begun with another seed.
    """
    if not options.resume and options.full:
        records.put_aside()
    elif not options.resume:
        options.records.unlink(missing_ok=True)
    if records.seed is None:
        records.begin(_any_seed(options, records.code))
    seed = records.seed
    assert seed is not None
    if options.seed not in (None, seed):
        raise _WrongArguments(
            f"--seed {options.seed}: the campaign of this code was begun with seed {seed}; leave --seed out to go on with"
            " it, or --resume to begin another"
        )
    return seed


def _any_seed(options: argparse.Namespace, code: str = "") -> int:
    if options.seed is not None:
        return int(options.seed)
    if options.shard != WHOLE:
        return int(code, 16) % (1 << 30)
    return random.SystemRandom().randrange(1 << 30)


def _families(options: argparse.Namespace, chosen: Sequence[str]) -> list[Family]:
    found = [load(name) for name in chosen]
    return [family.as_sample for family in found] if options.sample else found


def _shares(options: argparse.Namespace, chosen: Sequence[str], seed: int) -> list[Share]:
    return [
        Share(
            family,
            family.trials if options.trials is None else options.trials,
            seed,
            options.shard,
        )
        for family in _families(options, chosen)
    ]


def _report(records: Records, options: argparse.Namespace, seed: int, broken: Sequence[str]) -> int:
    # What was not asked for is skipped as well, unless trials are made again, or a sample.
    named = names() if options.full else options.family or names()
    whole = options.full and options.shard == WHOLE
    asked = [name for name in named if not options.family or name in options.family]
    summary = Summary.of(_shares(options, named, seed), records, points_of=asked if whole else ())
    file = options.records.with_suffix(".json")
    file.write_text(json.dumps({**summary.as_dict(), "broken": list(broken)}, indent=2) + "\n")
    for trial in summary.failed:
        _say(f"{trial}\n  again: {_again(options, trial.family, trial.seed)}")
    if broken:
        _say(f"ended before their time: {', '.join(broken)}")
    _say(summary.text)
    if summary.failed or summary.thin or broken:
        return 1
    return 3 if summary.skipped else 0


def _again(options: argparse.Namespace, family: str, seed: int) -> str:
    if options.sample:
        return f"python -m tests.faults --sample --family {family} --seed {seed} --trials 1"
    return f"make test-faults ONLY={family} SEED={seed}"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
