"""The ground-truth log: one JSON line for everything that happened, on disk before the client hears of it."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any


class Truth:
    """Writes the log. A line that was written survives the end of this process and of the computer.

    | event | fields beside `at` (seconds since 1970) and `event` |
    |---|---|
    | started | pid, url, options |
    | launch_accepted | instance, type, region, cents_per_hour, name, tags, ssh_key |
    | status | instance, was, now |
    | billed | instance, seconds, billed_s, dollars: it costs nothing any more |
    | terminate_accepted | instance |
    | user_data_applied | instance, ignored, failed |
    | unlisted | instance |
    | ssh_key_added, ssh_key_deleted | id, name |
    | ruleset_added, ruleset_deleted | id, name, region |
    | file_system_added, file_system_deleted | id, name, region |
    | machine_ended | instance: its processes are gone |
    | fault | op, kind |
    | advanced | seconds, ahead_s: a test has moved the clock on |
    | failed | where, error: a mistake of the emulator itself, which makes its `with` block raise |
    | ended | |

    Attributes:
        ahead_s: by how much its time of day has been moved on before this computer's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ahead_s = 0.0
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8")

    def now(self) -> float:
        """The time of day, in seconds since 1970, by which the log and the dollars go."""
        return time.time() + self.ahead_s

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Adds a line, waits for the disk, and gives what it says."""
        said = {"at": self.now(), "event": event, **fields}
        with self._lock:
            if not self._file.closed:
                self._file.write(json.dumps(said) + "\n")
                self._file.flush()
                os.fsync(self._file.fileno())
        return said

    def turn(self) -> None:
        """Puts what is written so far aside, in a file beside this one, and begins anew."""
        with self._lock:
            self._file.close()
            self.path.rename(self.path.with_suffix(f".{len(logs(self.path))}{self.path.suffix}"))
            self._file = self.path.open("a", encoding="utf-8")

    def failed(self, where: str) -> None:
        """Notes the exception that is being handled as a mistake of the emulator's own."""
        self.write("failed", where=where, error=traceback.format_exc())

    def close(self) -> None:
        """Nothing is written any more."""
        with self._lock:
            self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; one that was being written when its process died is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def logs(path: Path) -> list[Path]:
    """A log and those that were put aside for it."""
    return [*path.parent.glob(f"{path.stem}.*{path.suffix}"), path]
