"""Moments: named points of a run's life, and at which of them a run is, seen from outside by its files, its machine and
the cloud's ground truth."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import left
from tests.faults.lambda_world import World
from tests.faults.starts import Starts

# In the order of a run's life. Of the provider that is this computer, "the POST" starts the guardian.
POINTS = (
    "before POST",
    "accepted",
    "answered",
    "recorded",
    "running",
    "finished",
    "destroying",
    "removed",
)
_POLL_S = 0.002


class Lines:
    """The JSON lines of a file that grows; read again only when it has, since it is looked at a thousand times a second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._found: list[dict[str, Any]] = []

    def __call__(self) -> list[dict[str, Any]]:
        """Those that can be read now."""
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return []
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if stamp != self._stamp:
            self._found, self._stamp = [*_lines(self._file)], stamp
        return self._found


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


class Sight:
    """What can be seen of one run.

    Args:
        home: the state folder that it is in.
        run: its id.
        starts: what its function says of itself.
        cloud: where its machine is; None for one that is this computer.
    """

    def __init__(self, home: Path, run: str, starts: Starts, cloud: World | None) -> None:
        self.run = run
        self.cloud = cloud
        self._directory = home / "runs" / run
        self._starts = starts
        self._journal = Lines(self._directory / "journal.jsonl")
        self._creations = Lines(self._directory / "creations.jsonl")
        self._truth = Lines(home / "no.cloud" if cloud is None else cloud.cloud.log)

    @property
    def point(self) -> str:
        """The point that the run has come to; "closed" where it is over, and before the first one that as well."""
        events = self.events
        if (self._directory / "receipt.json").exists():
            return "closed"
        if "closing" in events:
            return "removed" if self.is_gone else "destroying"
        if "machine" in events:
            in_use = "finished" if self.has_finished else "running"
            return in_use if self.has_started else "recorded"
        if self.is_answered:
            return "answered"
        return "accepted" if self.is_accepted else "before POST"

    @property
    def events(self) -> set[str]:
        """The names of its journal's events."""
        return {str(line["event"]) for line in self._journal() if "event" in line}

    @property
    def is_accepted(self) -> bool:
        """Its machine exists."""
        if self.cloud is None:
            return self.has_begun and bool(left.machines(self.run))
        return bool(self._launched)

    @property
    def has_begun(self) -> bool:
        """The guardian of a machine that is this computer is about to start, or has: less than that it exists, and quickly seen."""
        return (self._directory / "machine" / "guardian.log").exists()

    @property
    def is_answered(self) -> bool:
        """Whoever asked for the machine has its id."""
        if self.cloud is None:
            return "launched" in self.events
        made = self._creations()
        tokens = {line["token"] for line in made if line.get("kind") == "instance"}
        return any(line["token"] in tokens and line.get("outcome") == "answered" for line in made)

    @property
    def has_started(self) -> bool:
        """By the function's own word."""
        return bool(self._starts.of_run(self.run))

    @property
    def has_finished(self) -> bool:
        """The same."""
        return self._starts.run_has_finished(self.run)

    @property
    def is_gone(self) -> bool:
        """Nothing is left of its machine, nor of what that needs."""
        if self.cloud is None:
            return not any(self._directory.glob("machine*"))
        ended = {event["instance"] for event in self._truth() if event["event"] == "billed"}
        return self._launched <= ended and not self._things

    @property
    def _launched(self) -> set[str]:
        """Ids of its machines, whatever has become of them."""
        return {
            event["instance"]
            for event in self._truth()
            if event["event"] == "launch_accepted" and event["tags"].get("dayfly-run") == self.run
        }

    @property
    def _things(self) -> set[str]:
        """Ids of its keys and rulesets that are there."""
        there = set()
        for event in self._truth():
            if self.run in str(event.get("name", "")):
                if event["event"] in ("ssh_key_added", "ruleset_added"):
                    there.add(event["id"])
                elif event["event"] in ("ssh_key_deleted", "ruleset_deleted"):
                    there.discard(event["id"])
        return there

    def has_met(self, op: str) -> bool:
        """A fault of the cloud's script has struck a call of an operation."""
        return any(event["event"] == "fault" and event["op"] == op for event in self._truth())


# Signs that a run has come to a point, each of them quickly seen; whether it is still there is for `Sight.point` to say.
SIGNS: dict[str, Callable[[Sight], bool]] = {
    "before POST": lambda sight: not sight.is_accepted,
    "accepted": lambda sight: sight.has_begun if sight.cloud is None else sight.is_accepted,
    "answered": lambda sight: sight.is_answered,
    "recorded": lambda sight: "machine" in sight.events,
    "running": lambda sight: sight.has_started,
    "finished": lambda sight: sight.has_finished,
    "destroying": lambda sight: "closing" in sight.events,
    "removed": lambda sight: "closing" in sight.events and sight.is_gone,
}


def wait_for_run(
    home: Path, before: set[str], client: subprocess.Popen[bytes], wait_s: float
) -> str | None:
    """The new run; None where the client ended before there was one."""
    found: set[str] = set()

    def appeared() -> bool:
        found.update(left.runs(home) - before)
        return bool(found)

    return next(iter(found)) if wait_for(appeared, client, wait_s) else None


def wait_for(
    reached: Callable[[], bool], client: subprocess.Popen[bytes], wait_s: float
) -> bool | None:
    """Waits for a moment.

    Returns:
        False where the client ended before; None where it goes on and the moment does not come.
    """
    until = time.monotonic() + wait_s
    while client.poll() is None:
        if reached():
            return True
        if time.monotonic() > until:
            return None
        time.sleep(_POLL_S)
    return False
