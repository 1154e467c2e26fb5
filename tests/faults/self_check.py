"""Whether the crash matrix would notice: each safety rule is switched off in turn, and a trial has to fail."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.campaign import ROOT, Records, code_digest
from tests.faults.family import load
from tests.faults.switches import SWITCHES

MOST_TRIALS = 200
_AT_ONCE = 10


def run(only: str | None, seed: int, say: Callable[[str], None]) -> int:
    """Switches off each rule, or only one.

    Returns:
        0 when every one was noticed within 200 trials, else 1.
    """
    missed = []
    for name in [only] if only else SWITCHES:
        found = noticed(name, seed)
        say(f"without {name}: {found or f'not noticed in {MOST_TRIALS} trials'}")
        missed += [name] * (not found)
    say(f"{len(SWITCHES) if not only else 1} rules switched off, {len(missed)} not noticed")
    return 1 if missed else 0


def noticed(name: str, seed: int) -> str:
    """The first trial that fails without the rule; "" where none of 200 does."""
    family = load(SWITCHES[name].family)
    with tempfile.TemporaryDirectory(prefix="faults-check-") as folder:
        records = Records(Path(folder, "records"), code_digest())
        for batch in range(MOST_TRIALS // _AT_ONCE):
            command = [sys.executable, "-m", "tests.faults", "--family", family.name]
            command += ["--without", name, "--seed", str(seed), "--work", str(_AT_ONCE)]
            done = subprocess.run(
                [*command, "--records", str(records.file)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            for trial in records.trials(family.name)[batch * _AT_ONCE :]:
                if trial.wrong:
                    return f"noticed by {trial}"
    return ""
