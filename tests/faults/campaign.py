"""Campaign: the trials of many families, each written down as it ends, so that a campaign can be taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import place
from tests.faults.family import Family
from tests.faults.shard import WHOLE, Shard
from tests.faults.trial import Trial, headline

ROOT = Path(__file__).parents[2]
# A trial whose target had ended is made again with another seed, but not for ever.
_TRIES = 4
_PARTS_OF_A_JOB = 4
_POLL_S = 0.1


@dataclass(frozen=True)
class Records:
    """The file of all trials; those count that were made with the code as it is now.

    Attributes:
        file: one JSON object a line.
        code: digest of product and tests.
    """

    file: Path
    code: str

    @classmethod
    def open(cls, file: Path) -> Records:
        """The records of the code as it is now."""
        file.parent.mkdir(exist_ok=True)
        return cls(file, code_digest())

    def trials(self, family: str, shard: Shard = WHOLE) -> list[Trial]:
        """What has been tried of a family with this code."""
        if not self.file.exists():
            return []
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        made = [Trial.from_dict(line["trial"]) for line in lines if line["code"] == self.code]
        return [trial for trial in made if trial.family == family and shard.has(trial.seed)]

    def add(self, trial: Trial) -> None:
        """Writes one down in one piece: several processes write."""
        line = json.dumps({"code": self.code, "trial": trial.as_dict()}) + "\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def code_digest() -> str:
    """A digest of everything that a trial runs."""
    digest = hashlib.sha256()
    for folder in ("infra", "stacks", "runtime", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def made(family: Family, wanted: int, seeds: Iterator[int], where: place.Place) -> Iterator[Trial]:
    """Makes trials until `wanted` of them have counted.

    Raises:
        AssertionError: too many did not count.
    """
    done = 0

    def given() -> Iterator[int]:
        for _ in range(wanted * _TRIES + _TRIES):
            if done >= wanted:
                return
            yield next(seeds)

    for trial in family.run(where, given()):
        done += trial.counted
        yield trial
    assert done >= wanted, f"{family.name}: {done} of {wanted} trials counted"


def work(
    family: Family,
    wanted: int,
    seed: int,
    shard: Shard,
    *,
    records: Records,
    say: Callable[[str], None],
    until_wrong: bool = False,
) -> None:
    """Makes trials in this process, in a place of its own, and writes each down as it ends; perhaps to the first that fails."""
    tried = {trial.seed for trial in records.trials(family.name, shard)}
    seeds = (each for each in shard.seeds(seed) if each not in tried)
    with place.place() as where:
        for trial in made(family, wanted, seeds, where):
            records.add(trial)
            say(str(trial))
            if until_wrong and trial.wrong:
                return


def share_out(
    family: Family, wanted: int, seed: int, shard: Shard, file: Path, *, sample: bool = False
) -> bool:
    """Makes trials in several processes at a time, each with a part of the shard; small ones for a sample.

    Returns:
        Whether all of the processes ended well.
    """
    jobs = min(family.jobs, wanted)
    # Some seeds take ten times as long as others: whoever is done with one part takes the next.
    parts = jobs if sample or jobs == 1 else min(wanted, jobs * _PARTS_OF_A_JOB)
    waiting, working = list(range(parts)), list[subprocess.Popen[bytes]]()
    codes = list[int]()
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                number = waiting.pop(0)
                command = [sys.executable, "-m", "tests.faults", "--family", family.name]
                command += ["--shard", str(shard.part(number, parts)), "--seed", str(seed)]
                command += ["--work", str(len(range(number, wanted, parts)))]
                command += ["--records", str(file), *["--sample"] * sample]
                working.append(subprocess.Popen(command, cwd=ROOT))
            time.sleep(_POLL_S)
            codes += [p.returncode for p in working if p.poll() is not None]
            working = [p for p in working if p.returncode is None]
        return not any(codes)
    finally:
        for process in working:
            process.terminate()
            process.wait()


@dataclass(frozen=True)
class Summary:
    """What a campaign has come to.

    Attributes:
        trials: that counted.
        skipped: families that have too few trials, with how many.
        seed: of the first trial.
    """

    trials: tuple[Trial, ...]
    skipped: tuple[str, ...]
    seed: int

    @classmethod
    def of(
        cls, families: Sequence[tuple[Family, int]], records: Records, shard: Shard, seed: int
    ) -> Summary:
        """From the records; `families` with how many trials each is to have."""
        trials: list[Trial] = []
        skipped = []
        for family, wanted in families:
            counted = [t for t in records.trials(family.name, shard) if t.counted]
            trials += counted
            if len(counted) < wanted:
                skipped.append(f"{family.name} ({len(counted)} of {wanted} trials)")
        return cls(tuple(trials), tuple(skipped), seed)

    @property
    def failures(self) -> list[str]:
        """Every trial in which something did not hold."""
        return [str(trial) for trial in self.trials if trial.wrong]

    @property
    def text(self) -> str:
        """The headline, and what it does not cover."""
        lines = [headline(self.trials)]
        lines += [f"skipped: {', '.join(self.skipped)}"] * bool(self.skipped)
        lines += [f"{len(self.failures)} trials failed"] * bool(self.failures)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        by_family: dict[str, dict[str, Any]] = {}
        for name in sorted({trial.family for trial in self.trials}):
            own = [trial for trial in self.trials if trial.family == name]
            by_family[name] = {
                "trials": len(own),
                "headline": headline(own),
                "seeds": [trial.seed for trial in own],
            }
        return {
            "headline": headline(self.trials),
            "skipped": list(self.skipped),
            "failures": self.failures,
            "seed": self.seed,
            "families": by_family,
        }
