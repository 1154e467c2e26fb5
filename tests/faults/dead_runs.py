"""Runs whose client was killed while their functions go on: what state and blobs are spoiled under."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.faults import left
from tests.faults.place import COMMAND_S, Place

_CLIENT = """
import sys
from dayfly import cluster


@cluster(provider="local", environment=[])
def wait(number):
    import time

    time.sleep(600)


jobs = [wait.submit(number) for number in range(int(sys.argv[1]))]
for job in jobs:
    job.result()
"""


class DeadRuns:
    """A stock of them, filled by one client for several trials: starting it costs the most.

    Lifecycle: `take` gives one; `close` has what nobody took destroyed by `dayfly gc`.
    """

    def __init__(self, place: Place, at_once: int) -> None:
        self._place, self._at_once = place, at_once
        self._stock: list[str] = []

    def take(self) -> str:
        """The id of a run that is up, whose function runs and whose client is dead."""
        if not self._stock:
            self._fill()
        return self._stock.pop()

    def _fill(self) -> None:
        home = self._place.home
        script = home / "dead_client.py"
        script.write_text(_CLIENT)
        before = left.runs(home)
        with (home / "dead_client.log").open("wb") as log:
            client = subprocess.Popen(
                [sys.executable, str(script), str(self._at_once)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
            )
        try:
            until = time.monotonic() + COMMAND_S
            while not self._all_started(new := left.runs(home) - before):
                said = (home / "dead_client.log").read_text()
                assert client.poll() is None and time.monotonic() < until, said
                time.sleep(0.02)
        finally:
            client.kill()
            client.wait()
        self._stock = sorted(new)
        self._await_engines(new)

    def _all_started(self, runs: set[str]) -> bool:
        names = [left.events(self._place.home, run) for run in runs]
        # "up_ended" is the engine's last word: before it the state is still being written.
        return len(runs) == self._at_once and all(
            {"job_started", "up_ended"} <= {*n} for n in names
        )

    def _await_engines(self, runs: set[str]) -> None:
        """The program's process has nothing more to write, and no lock."""
        until = time.monotonic() + COMMAND_S
        while any("dayfly.stacks.program" in line for line in left.alive(*runs)):
            assert time.monotonic() < until
            time.sleep(0.02)

    def close(self) -> None:
        """Ends what is left of the stock."""
        for run in self._stock:
            self._place.dayfly("gc", "--run", run, "--yes", "--held")


@contextlib.contextmanager
def dead_runs(place: Place, at_once: int = 2) -> Iterator[DeadRuns]:
    """A stock for as long as the block lasts; one client fills it with so many."""
    stock = DeadRuns(place, at_once)
    try:
        yield stock
    finally:
        stock.close()
