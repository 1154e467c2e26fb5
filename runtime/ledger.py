"""Ledger: what each call of a run has cost in time and memory, one line of JSON a call, kept with the run."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import threading
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dayfly.stacks.journal import History

FILE = "calls.jsonl"


@dataclasses.dataclass
class Times:
    """Where the time of a call went, in seconds; peak memory of its process in bytes.

    Of a run that is one call, what only the client that sent it knows (pickle_s, upload_s, argument_bytes) is 0 where
    another one, or the keeper, has brought its value home.

    Attributes:
        pickle_s: making bytes of the arguments.
        upload_s: bringing large ones to the machine, before the call was sent; of a run that is one call, bringing function and
            arguments there, and starting it.
        data_s: bringing what the Data among its arguments is, as far as the machine had not got it.
        queue_s: waiting there for a free slot.
        start_s: from then until its process has taken it up: making that process, above all.
        load_s: in the child: loading the arguments, with what has to be fetched from URLs for them.
        run_s: in the child: loading the function, calling it, pickling the value.
        download_s: fetching a large result.
        total_s: from `submit` to the value.
        data_bytes: sent for `data_s`.
        argument_bytes: of its pickled arguments; of a run that is one call, with the function.
        peak_rss_bytes: of the process that made it.
    """

    pickle_s: float = 0.0
    upload_s: float = 0.0
    data_s: float = 0.0
    queue_s: float = 0.0
    start_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0
    download_s: float = 0.0
    total_s: float = 0.0
    data_bytes: int = 0
    argument_bytes: int = 0
    peak_rss_bytes: int = 0


_NAMES = tuple(field.name for field in dataclasses.fields(Times))
_SECONDS = tuple(name for name in _NAMES if name.endswith("_s"))
# Filled in, and not made by `json`, which takes longer for it than all else that is done for a call's result.
_LINE = (
    '{"call": %d, "outcome": %s, '
    + ", ".join(f'"{name}": {"%.6f" if name in _SECONDS else "%d"}' for name in _NAMES)
    + "}\n"
)


class Ledger:
    """The ledger of one run.

    Lifecycle: the first `write` with an entry opens its file, `close` writes what is left and may come twice.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._file: IO[str] | None = None
        self._done: deque[tuple[int, str, Times]] = deque()
        self._writing = threading.Lock()
        self._over = False

    def enter(self, number: int, outcome: str, times: Times) -> None:
        """Takes a call that is done, for the next `write`: whoever waits for its value does not wait for a file."""
        if not self._over:
            self._done.append((number, outcome, times))

    def write(self) -> None:
        """Writes down the calls that were entered; a full disk costs the record, never the call."""
        if not self._done:
            return
        with self._writing:
            try:
                if self._file is None and not self._over:
                    self._path.touch(mode=0o600)
                    self._file = self._path.open("a")
                while self._done:
                    line = _line(*self._done.popleft())
                    if self._file is not None:
                        self._file.write(line)
                if self._file is not None:
                    self._file.flush()
            except OSError:
                self._over = True

    def close(self) -> None:
        """Nothing more is written."""
        self.write()
        with self._writing:
            self._over = True
            if self._file is not None:
                # What a full disk has not taken is tried once more.
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None


def enter_run(history: History, sent: Times, total_s: float | None = None) -> None:
    """Writes the ledger of a run that was one call, as soon as it is known how that has ended, unless it is written.

    Args:
        history: its journal.
        sent: what its client knows of sending it.
        total_s: from `submit` until now; None for what the journal knows of it.

    Raises:
        OSError: it could not be written.
    """
    ended, result = history.last("job_ended"), history.last("result")
    if history.intent.get("warm") or ended is None:
        return
    end = ended.fields
    # One that has finished has a result; as long as that is not here, whoever brings it writes what it is.
    if end["how"] == "finished" and result is None:
        return
    fetched = history.last("result_fetched")
    home = ended.time if fetched is None else fetched.time
    times = dataclasses.replace(
        sent,
        data_s=float(history.field("data", "seconds", 0.0)),
        run_s=max(0.0, end["ended"] - end["started"]) if end["started"] else 0.0,
        download_s=max(0.0, home - ended.time),
        total_s=max(0.0, home - history.events[0].time) if total_s is None else total_s,
        data_bytes=int(history.field("data", "bytes", 0)),
        peak_rss_bytes=int(end.get("peak_rss_bytes", 0)),
    )
    path = history.directory / FILE
    path.touch(mode=0o600)
    with path.open("a") as file:
        # A client that lets go of a run, and the keeper, which takes it up, may come to its end in one moment.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not os.fstat(file.fileno()).st_size:
            file.write(_line(1, str(history.field("result", "outcome", end["how"])), times))


def _line(number: int, outcome: str, times: Times) -> str:
    values = [getattr(times, name) for name in _NAMES]
    return _LINE % (number, json.dumps(outcome or "failed"), *values)


def totals(directory: Path) -> dict[str, Any] | None:
    """The calls of a run, how many of them gave no value, and their sums in seconds; None where it has no ledger."""
    try:
        lines = (directory / FILE).read_text().splitlines()
    except OSError:
        return None
    found: dict[str, Any] = {"calls": 0, "without_value": 0, **dict.fromkeys(_SECONDS, 0.0)}
    found |= {"data_bytes": 0, "peak_rss_bytes": 0}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # Cut by the end of its writer.
        found["calls"] += 1
        found["without_value"] += entry["outcome"] != "value"
        for name in (*_SECONDS, "data_bytes"):
            # An older version knew less of what a call takes.
            found[name] += entry.get(name, 0)
        found["peak_rss_bytes"] = max(found["peak_rss_bytes"], entry["peak_rss_bytes"])
    return found
