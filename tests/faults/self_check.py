"""Whether the crash matrix would notice: each safety rule is switched off in turn, and a trial has to fail for want of it.

Any failure would not do: the same trial has to hold with the rule in force, and what is wrong has to be what the rule protects.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.family import load
from tests.faults.records import ROOT, Records, code_digest
from tests.faults.share import Share
from tests.faults.switches import SWITCHES
from tests.faults.trial import Trial

MOST_TRIALS = 200
_AT_ONCE = 10

Say = Callable[[str], None]


def run(only: str | None, seed: int, say: Say) -> int:
    """Switches off each rule, or only one.

    Returns:
        0 when every one was noticed within 200 trials, else 1.
    """
    missed = []
    for name in [only] if only else SWITCHES:
        found = noticed(name, seed, say)
        say(f"without {name}: {found or f'not noticed in {MOST_TRIALS} trials'}")
        missed += [name] * (not found)
    say(f"{len(SWITCHES) if not only else 1} rules switched off, {len(missed)} not noticed")
    return 1 if missed else 0


def noticed(name: str, seed: int, say: Say = lambda _: None) -> str:
    """The first trial that fails for want of the rule and holds with it; "" where none of 200 does."""
    first = seed
    while (left := seed + MOST_TRIALS - first) > 0:
        batch = _Batch(SWITCHES[name].family, first, min(left, _AT_ONCE))
        failed = next((trial for trial in batch.tried(without=name) if trial.wrong), None)
        if failed is None:
            first += _AT_ONCE
            continue
        other = _other_reason(name, failed)
        if not other:
            return f"noticed by {failed}"
        say(f"without {name}: {other}: {failed}")
        first += (batch.share.number_of(failed.seed) or 0) + 1
    return ""


def _other_reason(name: str, failed: Trial) -> str:
    """Why a trial has failed for another reason than the missing rule; "" where it has not."""
    if not SWITCHES[name].is_missed_in(failed):
        return "what failed is not what the rule protects"
    (*_, control) = _Batch(failed.family, failed.seed, 1).tried()
    if control.wrong or not control.counted:
        return f"the same seed does not hold with the rule in force either ({control})"
    return ""


@dataclass(frozen=True)
class _Batch:
    """A few trials of a family, made in a process of their own."""

    family: str
    seed: int
    trials: int

    @property
    def share(self) -> Share:
        """Their numbers."""
        return Share(load(self.family), self.trials, self.seed)

    def tried(self, without: str = "") -> list[Trial]:
        """The trials, perhaps with a rule switched off, and then to the first that fails."""
        with tempfile.TemporaryDirectory(prefix="faults-check-") as folder:
            records = Records(Path(folder, "records"), code_digest())
            command = [sys.executable, "-m", "tests.faults", "--family", self.family]
            command += ["--seed", str(self.seed), "--work", str(self.trials)]
            command += ["--records", str(records.file)]
            done = subprocess.run(
                [*command, *(["--without", without] if without else [])],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return records.trials(self.family)
