"""`python -m tests.faults`: the crash matrix. Exit code 0: all families whole and nothing wrong; 1: something did not
hold; 2: wrong arguments; 3: nothing wrong, but families were skipped."""

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
from tests.faults.campaign import Records, Summary
from tests.faults.family import Family, load, names
from tests.faults.shard import WHOLE, Shard
from tests.faults.switches import SWITCHES

_BUILD = campaign.ROOT / "build"


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
        "--trials", type=int, help="so many of each family, instead of a full run's"
    )
    parser.add_argument(
        "--sample",
        action="store_true",
        help="as few of each family, and as small, as in `make test`",
    )
    parser.add_argument("--seed", type=int, help="of the first trial; a random one by default")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="count the trials that were made with the same code before",
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
    options = parser.parse_args(given)
    if options.records is None:
        # A sample's trials do not count for a full run.
        options.records = _BUILD / ("faults-sample.jsonl" if options.sample else "faults.jsonl")
    return options


def main(given: Sequence[str]) -> int:
    """The command."""
    options = _arguments(given)
    # So that whoever is ended ends its workers, and they leave nothing of their places.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = random.SystemRandom().randrange(1 << 30) if options.seed is None else options.seed
    chosen = _families(options, options.family or names())
    if options.self_check:
        return self_check.run(options.without, seed, _say)
    if options.work is not None:
        if options.without:
            switches.apply(options.without)
            os.environ |= switches.environment(options.without)
        records = Records.open(options.records)
        for family in chosen:
            campaign.work(
                family,
                options.work,
                seed,
                options.shard,
                records=records,
                say=_say,
                until_wrong=options.without is not None,
            )
        return 0
    if not options.resume:
        options.records.unlink(missing_ok=True)
    records = Records.open(options.records)
    sample = " with `--sample`" if options.sample else ""
    _say(
        f"seed {seed}, shard {options.shard}; `--family F --seed S --trials 1`{sample} makes a trial again"
    )
    broken = []
    for family in chosen:
        wanted = options.shard.share(family.trials if options.trials is None else options.trials)
        missing = wanted - sum(t.counted for t in records.trials(family.name, options.shard))
        if missing > 0 and not campaign.share_out(
            family, missing, seed, options.shard, records.file, sample=options.sample
        ):
            broken.append(family.name)
    return _report(records, options, seed, broken)


def _families(options: argparse.Namespace, chosen: Sequence[str]) -> list[Family]:
    found = [load(name) for name in chosen]
    return [family.as_sample for family in found] if options.sample else found


def _report(records: Records, options: argparse.Namespace, seed: int, broken: Sequence[str]) -> int:
    # What was not asked for is skipped as well, unless one trial is made again, or a sample.
    named = _families(options, names())
    if options.trials is not None or options.sample:
        named = _families(options, options.family or names())
    wanted = [
        (f, options.shard.share(f.trials if options.trials is None else options.trials))
        for f in named
    ]
    summary = Summary.of(wanted, records, options.shard, seed)
    file = options.records.with_suffix(".json")
    file.write_text(json.dumps({**summary.as_dict(), "broken": list(broken)}, indent=2) + "\n")
    for failure in summary.failures:
        _say(failure)
    if broken:
        _say(f"ended before their time: {', '.join(broken)}")
    _say(summary.text)
    if summary.failures or broken:
        return 1
    return 3 if summary.skipped else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
