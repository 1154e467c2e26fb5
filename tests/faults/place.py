"""Place: a state folder of its own for the trials of one process, and strangers beside it that nothing may touch."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import keepers
from tests.faults import left

COMMAND_S = 120.0
_SETTLE_S = 30.0


@dataclass(frozen=True)
class Place:
    """Where trials happen.

    Attributes:
        home: DAYFLY_HOME of this process and its children.
        shared: a folder that all processes of a campaign have: what one has measured, the others need not.
        strangers: processes that look like machines of somebody else, or of nobody.
    """

    home: Path
    shared: Path
    strangers: tuple[subprocess.Popen[bytes], ...] = ()

    def dayfly(
        self, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command line, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "dayfly.runtime.cli", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            env=os.environ | (variables or {}),
        )

    def client(self, script: Path, seed: int, port: int) -> subprocess.Popen[bytes]:
        """A client of its own process.

        Args:
            script: what it runs.
            seed: of the trial.
            port: where its function tells of its starts.
        """
        with self._log(seed).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, str(script), str(seed), str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
            )

    def said(self, seed: int) -> str:
        """The last words of that client."""
        return self._log(seed).read_text(errors="replace")[-600:]

    def _log(self, seed: int) -> Path:
        return self.home / f"client.{seed}.log"

    def settled(self, *runs: str, wait_s: float = _SETTLE_S) -> list[str]:
        """Waits until no process of these runs is alive.

        Returns:
            Command lines of those that are there all the same.
        """
        until = time.monotonic() + wait_s
        while (found := left.alive(*runs)) and time.monotonic() < until:
            time.sleep(0.1)
        return found

    def broken_promises(self, *runs: str, wait_s: float = _SETTLE_S) -> tuple[list[str], list[str]]:
        """What DESIGN section 4 promises and does not hold for runs that should be closed (I1, I3, I5, I7, I8).

        Returns:
            What is alive, and everything else.
        """
        problems = []
        alive = self.settled(*runs, wait_s=wait_s)
        for run in runs:
            if not (self.home / "runs" / run / "receipt.json").exists():
                problems.append(f"run {run} is still open: {left.events(self.home, run)[-3:]}")
        problems += [
            f"lock {lock.name}" for lock in left.locks(self.home) if lock.parent.name in runs
        ]
        problems += [f"pending {each}" for each in left.pending(self.home, runs)]
        problems += [f"stack {run} is still there" for run in left.stacks(self.home) & set(runs)]
        problems += self._open_to_others(*runs) + self.touched_strangers()
        return alive, problems

    def _open_to_others(self, *runs: str) -> list[str]:
        folders = [self.home, *(self.home / "runs" / run for run in runs)]
        return [
            f"{folder} can be read by others"
            for folder in folders
            if folder.exists() and folder.stat().st_mode & 0o077
        ]

    def touched_strangers(self) -> list[str]:
        return [
            f"process {stranger.args!r} was ended, and it is not ours"
            for stranger in self.strangers
            if stranger.poll() is not None
        ]


@contextlib.contextmanager
def strangers() -> Iterator[tuple[subprocess.Popen[bytes], ...]]:
    """A process with another owner's tags, and one without any: no trial may end them (I8)."""
    command = [sys.executable, "-c", "import time; time.sleep(86400)"]
    foreign = {"DAYFLY_RUN": "f" * 32, "DAYFLY_OWNER": "somebody-else"}
    started = tuple(
        subprocess.Popen(command, env={"PATH": os.defpath, **variables})
        for variables in (foreign, dict[str, str]())
    )
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextlib.contextmanager
def place(shared: Path | None = None) -> Iterator[Place]:
    """A new one for this process; afterwards its keeper ends as at shutdown, and whatever else is alive of it is ended.

    Args:
        shared: its folder of a campaign; None: it is alone.
    """
    for name in list(os.environ):
        if name.startswith(("DAYFLY_", "PULUMI_", "LAMBDA_")) and name != "DAYFLY_ENGINE_HOME":
            del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ |= {"DAYFLY_HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    try:
        with strangers() as beside:
            yield Place(home, shared or home, beside)
    finally:
        try:
            keepers.end(home)
        finally:
            end_all(home)
        shutil.rmtree(home, ignore_errors=True)


def end_all(home: Path) -> None:
    """Ends what is left of a state folder's runs, with a keeper that has not ended, and nothing else."""
    keeper = keepers.process(home)
    if keeper is not None:
        keeper.kill()
    marks = (str(home), *left.runs(home))
    for process, _ in left.processes(*marks):
        if process.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                process.kill()
