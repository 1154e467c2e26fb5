"""Campaign: the trials of a share, made one by one in this process, or by several at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.faults import place
from tests.faults.records import ROOT, Records
from tests.faults.share import TRIES, Share
from tests.faults.trial import Trial

# Some seeds take ten times as long as others, so whoever is done with one part takes the next. What a seed tries follows from
# what is left when it is divided by 2, 4, 16, ...: such a number of parts would give one of them all that take longest.
_PARTS_OF_A_JOB, _PARTS_BESIDE = 4, 1
_POLL_S = 0.1
_told_to_end = threading.Event()


@dataclass
class _Turns:
    """The seeds of what is missing; a number has a further one until a trial of it has counted.

    Attributes:
        missing: numbers, each with how often it was tried before.
    """

    share: Share
    missing: Mapping[int, int]
    _last: bool = False
    _counted: bool = False

    def __iter__(self) -> Iterator[int]:
        for number, tried in self.missing.items():
            for attempt in range(min(tried, TRIES - 1), TRIES):
                self._last = attempt == TRIES - 1
                yield self.share.seed_of(number, attempt)
                if self._counted:
                    break

    def judged(self, trial: Trial) -> list[Trial]:
        """The trial; and where its number has none that counted after all tries, one that says so, and fails."""
        self._counted = trial.counted
        if trial.counted or not self._last:
            return [trial]
        missed = f"its fault did not come in {TRIES} tries"
        return [trial, Trial(trial.family, trial.seed, problems=(missed,))]


def end(number: int, _frame: FrameType | None = None) -> None:
    """A signal's handler: ends this process, which then writes down no trial that was cut short by that.

    Raises:
        SystemExit: with the code that a shell shows.
    """
    _told_to_end.set()
    sys.exit(128 + number)


def made(share: Share, missing: Mapping[int, int], where: place.Place) -> Iterator[Trial]:
    """Makes what is missing."""
    turns = _Turns(share, missing)
    for trial in share.family.run(where, iter(turns)):
        yield from turns.judged(trial)


def work(
    share: Share,
    *,
    records: Records,
    say: Callable[[str], None],
    shared: Path | None = None,
    until_wrong: bool = False,
) -> None:
    """Makes what is missing in a place of this process's own, and writes each down as it ends; perhaps to the first that fails."""
    missing = share.missing(records.trials(share.family.name))
    with place.place(shared) as where:
        for trial in made(share, missing, where):
            # Hypothesis, for one, takes the exception for something that it has found.
            if _told_to_end.is_set():
                sys.exit(128 + signal.SIGTERM)
            records.add(trial)
            say(str(trial))
            if until_wrong and trial.wrong:
                return


def parts_of(jobs: int, missing: int) -> int:
    """How many parts a share is cut into."""
    return min(missing, jobs * _PARTS_OF_A_JOB + _PARTS_BESIDE)


def share_out(share: Share, missing: int, records: Records, *, sample: bool = False) -> bool:
    """Has what is missing made by several processes at a time, each with a part of the share; small ones for a sample.

    Returns:
        Whether all of the processes ended well.
    """
    jobs, began = min(share.family.jobs, missing), time.monotonic()
    parts = jobs if sample or jobs == 1 else parts_of(jobs, missing)
    waiting, working = [share.part(n, parts) for n in range(parts)], list[subprocess.Popen[bytes]]()
    codes = list[int]()
    shared = tempfile.TemporaryDirectory(prefix="faults-shared-")
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                command = _command(waiting.pop(0), records, shared.name, sample=sample)
                working.append(subprocess.Popen(command, cwd=ROOT))
            time.sleep(_POLL_S)
            codes += [p.returncode for p in working if p.poll() is not None]
            working = [p for p in working if p.returncode is None]
        return not any(codes)
    finally:
        for process in working:
            process.terminate()
            process.wait()
        shared.cleanup()
        records.add_took(share.family.name, time.monotonic() - began)


def _command(share: Share, records: Records, shared: str, *, sample: bool) -> list[str]:
    command = [sys.executable, "-m", "tests.faults", "--family", share.family.name]
    command += ["--shard", str(share.shard), "--seed", str(share.seed)]
    command += ["--work", str(share.trials), "--records", str(records.file), "--shared", shared]
    return [*command, *["--sample"] * sample]
