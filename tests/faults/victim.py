"""The client that faults are tried on: a function that counts its starts, prints, and returns bytes that show their digest."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

_CODE = """
import sys
from dayfly import cluster


class Weights(bytes):
    def __repr__(self):
        import hashlib

        return "sha256:" + hashlib.sha256(self).hexdigest()


@cluster({asked}, environment=[])
def train(seed: int, starts: str):
    import random, sys, time
{tell}{meet}
    tell("started")
    for number in range({lines}):
        print("step", number, "of seed", seed, flush=True)
        if number % 10 == 0:
            print("warning", number, file=sys.stderr, flush=True)
        time.sleep({pause_s})
    tell("finished")
    return Weights(random.Random(seed).randbytes({size}))


if __name__ == "__main__":
{main}
"""
_ONE_CALL = """
    print(repr(train(int(sys.argv[1]), sys.argv[2])), flush=True)
"""
_INTO_A_FILE = """
    def tell(what):
        if what == "started":
            with open(starts, "a") as file:
                file.write("started\\n")
"""
# A machine of a cloud sees no file of ours.
_TO_A_PORT = """
    def tell(what):
        import os, socket

        with socket.create_connection(("127.0.0.1", int(starts)), 60) as connection:
            connection.sendall(f"{what} {seed} {os.environ['DAYFLY_RUN']}\\n".encode())
            connection.makefile().readline()
"""


@dataclass(frozen=True)
class Victim:
    """How much the function does.

    Attributes:
        lines: that it prints.
        pause_s: after each.
        size: of the value.
        asked: what the client asks for, as the decorator's arguments.
        by_port: that it has started, and that it has finished, is told to a `Starts`, and not put into a file.
        main: what the client does with it.
        meet: what the function does before it says that it has started.
        calls: how often it may start in one run.
    """

    lines: int
    pause_s: float
    size: int
    asked: str = 'provider="local"'
    by_port: bool = False
    main: str = _ONE_CALL
    meet: str = ""
    calls: int = 1

    @property
    def code(self) -> str:
        """The client's program: seed and a file for the starts, or the port of a `Starts`, are its arguments."""
        return _CODE.format(
            lines=self.lines,
            pause_s=self.pause_s,
            size=self.size,
            asked=self.asked,
            tell=_TO_A_PORT if self.by_port else _INTO_A_FILE,
            main=self.main,
            meet=self.meet,
        )

    def digest(self, seed: int) -> str:
        """What the value shows."""
        value = random.Random(seed).randbytes(self.size)
        return "sha256:" + hashlib.sha256(value).hexdigest()

    def log(self, seed: int) -> str:
        """All that it prints to standard output."""
        return "".join(f"step {number} of seed {seed}\n" for number in range(self.lines))

    def attached(
        self, cli: Cli, home: Path, run: str, seed: int, starts: Callable[[], int]
    ) -> tuple[str, str]:
        """What `dayfly attach` gives.

        Args:
            cli: runs a command.
            home: where the run is.
            run: which.
            seed: of the value.
            starts: how often the function was started, by its own word.

        Returns:
            "value" or "never started", and why the result counts as lost.
        """
        done = cli("attach", run)
        if done.returncode and "never started" in done.stderr and not starts():
            return "never started", ""
        if done.returncode:
            return "failed", f"attach ended with {done.returncode}: {done.stderr.strip()[-400:]}"
        shown, _, value = done.stdout.strip().rpartition("\n")
        why = self._wrong_log(home / "runs" / run, seed) or self._wrong_value(value.strip(), seed)
        if not why and shown and not self._is_log(f"{shown}\n", seed):
            why = "the log that attach showed has a gap or a repeat"
        return "value", why

    def _wrong_log(self, directory: Path, seed: int) -> str:
        """What the log that is here is not."""
        brought = (directory / "stdout.log").read_text()
        if self._is_log(brought, seed):
            return ""
        lines = brought.count("\n")
        return f"the log has {lines} lines of {self.lines}, or in another order"

    def _is_log(self, text: str, seed: int) -> bool:
        return text == self.log(seed)

    def _wrong_value(self, value: str, seed: int) -> str:
        """What the value that `attach` has printed is not."""
        if value == self.digest(seed):
            return ""
        return f"attach gave {value[:200]!r}, not {self.digest(seed)}"

    def kept(self, cli: Cli, home: Path, run: str, seed: int, finished: int = 1) -> str:
        """Why a result counts as lost after all is over; "" where `dayfly result` gives what was promised.

        Args:
            cli: runs a command.
            home: where the run is.
            run: which.
            seed: of the value.
            finished: how often the function has come to its end, by its own word.
        """
        kept = cli("result", run)
        if kept.stdout.strip() == self.digest(seed):
            return ""
        return f"`dayfly result` after gc: {kept.stdout.strip()[:200]} {kept.stderr.strip()[:200]}"


def started(starts: Path) -> int:
    """How often the function was started."""
    return len(starts.read_text().splitlines()) if starts.exists() else 0
