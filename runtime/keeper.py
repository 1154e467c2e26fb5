"""The keeper: one small process a user and DAYFLY_HOME that finishes what dead clients left behind and enforces deadlines.

`python -m dayfly.runtime.keeper`, with the standard library only; whatever it does about a run, a child process does.
It ends itself when nothing is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from dayfly.infra.run import is_id
from dayfly.runtime import keeper_socket
from dayfly.runtime.keeper_socket import KeeperSocket
from dayfly.runtime.ward import Ward, stamp
from dayfly.stacks import journal, late_look, vitals

# A dead client is noticed within two of these.
ROUND_S = 0.8
# A client that has just started one keeper should not have to start another for its next call.
LINGER_S = 5.0
# Acts at a time: each is an interpreter with an SSH session or an engine under it.
_ACTS = 8
_LOG_BYTES = 1 << 20
_RESCAN_S = 30.0


def folder_of(home: Path) -> Path:
    """Where keepers keep lock, socket and log."""
    return home / "keeper"


def host() -> str:
    """In their names: a folder that several computers share has a keeper on each."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())[:40]


class Keeper:
    """All open runs of one home.

    Args:
        home: the DAYFLY_HOME.
        now: the wall clock, by which deadlines are promised.
        ward: makes the ward of one run directory.
    """

    def __init__(
        self,
        home: Path,
        *,
        now: Callable[[], float] = time.time,
        ward: Callable[[Path], Ward] = Ward,
    ) -> None:
        self._runs = home / "runs"
        self._now, self._make = now, ward
        self._wards: dict[str, Ward] = {}
        self._closed: set[str] = set()
        self._seen: tuple[float, int] = (0.0, 0)
        self._early: dict[str, dict[str, str]] = {}
        self.stopping = False

    def round(self) -> None:
        """Looks at every open run once."""
        self._find()
        acting = sum(ward.act is not None for ward in self._wards.values())
        for ward in list(self._wards.values()):
            if _is_over(ward.directory) and ward.act is None:
                self._closed.add(ward.id)
                del self._wards[ward.id]
                continue
            busy = ward.act is not None
            if busy or acting < _ACTS:
                # A folder that cannot be read now is looked at again; the others must not wait for that.
                with contextlib.suppress(OSError):
                    ward.look(self._now())
                acting += (ward.act is not None) - busy

    def _find(self) -> None:
        """New runs, when the folder has changed, and now and then for clocks that are too coarse to tell."""
        try:
            changed = self._runs.stat().st_mtime_ns
            if self._seen[1] == changed and abs(self._now() - self._seen[0]) < _RESCAN_S:
                return
            names = {e.name for e in os.scandir(self._runs) if is_id(e.name) and e.is_dir()}
        except FileNotFoundError:
            names, changed = set(), 0
        self._seen = (self._now(), changed)
        # A run that something came late for is open again.
        self._closed = {n for n in self._closed if _is_over(self._runs / n)}
        for name in names - self._closed - set(self._wards):
            self._wards[name] = self._make(self._runs / name)
            if name in self._early:
                self._wards[name].entrust(self._early.pop(name))
        for name in set(self._wards) - names:
            del self._wards[name]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open that anything may still be to do about."""
        now = self._now()
        return not any(w.act is not None or w.needs_keeper(now) for w in self._wards.values())

    @property
    def open_runs(self) -> list[str]:
        """Ids of all open runs."""
        return sorted(self._wards)

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """What a client is told."""
        operation = message["op"]
        if operation == "entrust":
            return self._entrust(str(message["run"]), message["variables"], bool(message["own"]))
        if operation == "status":
            self._find()
            now = self._now()
            return {"runs": [ward.as_dict(now) for ward in self._wards.values()]}
        if operation == "stop":
            return self._stop(bool(message["force"]))
        if operation == "retire":
            self.stopping = True
            return {"variables": {w.id: w.variables for w in self._wards.values()} | self._early}
        return {"refused": f"a keeper has no operation {operation!r}"}

    def _entrust(self, run: str, variables: dict[str, str], own: bool) -> dict[str, Any]:
        given = {str(name): str(value) for name, value in variables.items()}
        self._find()
        if run in self._wards:
            self._wards[run].entrust(given, own=own)
        elif not _is_over(self._runs / run):
            self._closed.discard(run)
            self._early[run] = given
            self._seen = (0.0, 0)
        return {"entrusted": run}

    def _stop(self, force: bool) -> dict[str, Any]:
        self._find()
        if self._wards and not force:
            return {"refused": "runs are open", "runs": self.open_runs}
        self.stopping = True
        return {"stopping": True, "runs": self.open_runs}


def _is_over(directory: Path) -> bool:
    """Closed, and not to be looked after once more."""
    return (directory / journal.RECEIPT).exists() and late_look.due(directory) is None


def greeting(home: Path, version: str) -> dict[str, Any]:
    """What tells this keeper from another."""
    return {
        "keeper": vitals.myself(),
        "since": time.time(),
        "version": version,
        "python": sys.executable,
        "home": str(home),
    }


def lock(folder: Path) -> int | None:
    """The lock that makes this process the only keeper; None where there is one."""
    descriptor = os.open(folder / f"{host()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class Log:
    """What the keeper did: a file of this user's alone, and one older one, of a megabyte each at most."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, text: str) -> None:
        # Nobody is there to be told that a line could not be written.
        with contextlib.suppress(OSError):
            if self._file.exists() and self._file.stat().st_size > _LOG_BYTES:
                self._file.rename(self._file.with_suffix(".log.1"))
            self._file.touch(mode=0o600)
            with self._file.open("a") as output:
                output.write(f"{stamp(time.time())} [{os.getpid()}] {text}\n")


def serve(keeper: Keeper, home: Path, version: str, log: Callable[[str], None]) -> None:
    """Rounds and clients until nothing is open, or somebody says stop."""
    selector = selectors.DefaultSelector()
    path = keeper_socket.path_of(folder_of(home), host())
    clients = KeeperSocket(path, greeting(home, version), keeper.answer, selector)
    # Whoever has started it is about to hand over what the acts are to see: one that is begun without that fails.
    idle_since = time.monotonic()
    due = idle_since + ROUND_S
    try:
        while not keeper.stopping:
            for key, _ in selector.select(max(0.0, due - time.monotonic())):
                key.data()
            # Of two hundred clients each says a word of two hundred runs: a round after each word would take minutes.
            if time.monotonic() < due:
                continue
            keeper.round()
            due = time.monotonic() + ROUND_S
            if clients.clients or not keeper.is_idle:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > LINGER_S:
                log("nothing is open")
                return
        log(f"told to end; open: {', '.join(keeper.open_runs) or 'nothing'}")
    finally:
        clients.close()
        selector.close()


def main(version: str = "", locked: str = "") -> int:
    """The keeper's whole life.

    Args:
        version: of the dayfly that has started it; looking it up here would take megabytes.
        locked: the descriptor of the lock, where whoever has started it had taken that already.
    """
    os.umask(0o077)
    home = Path(os.environ["DAYFLY_HOME"])
    folder = folder_of(home)
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = int(locked) if locked else lock(folder)
    if descriptor is None:
        return 0
    os.set_inheritable(descriptor, False)
    log = Log(folder / f"{host()}.log")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(vitals.myself()).encode(), 0)
    keeper = Keeper(home)

    def end(_number: int, _frame: FrameType | None) -> None:
        keeper.stopping = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log("started")
    try:
        serve(keeper, home, version, log)
    except Exception as error:
        log(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        os.close(descriptor)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
