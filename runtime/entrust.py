"""A client's dealings with the keeper: starting it where it is not, and handing over what only this process has."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dayfly.errors import DayflyError, KeeperMissing
from dayfly.infra import providers
from dayfly.runtime import keeper, keeper_socket
from dayfly.stacks import isolated, journal
from dayfly.stacks.journal import History
from dayfly.stacks.workspace import Workspace

_START_S, _ANSWER_S, _POLL_S = 15.0, 10.0, 0.02
# They outlive this process on purpose; a reference keeps the interpreter from warning about that.
STARTED: list[subprocess.Popen[bytes]] = []


@atexit.register
def _disown() -> None:
    """What outlives this process is no child that it has forgotten to wait for, of which the interpreter would warn."""
    for process in STARTED:
        if process.poll() is None:
            process.returncode = 0


class Line:
    """A connection to the keeper, which does not end while it is open.

    Lifecycle: constructing connects and hears the greeting; leaving closes.

    Raises:
        KeeperMissing: there is none, or it does not answer.
    """

    def __init__(self, workspace: Workspace) -> None:
        folder = keeper.folder_of(workspace.home)
        path = keeper_socket.path_of(folder, keeper.host())
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER_S)
        try:
            if not keeper_socket.is_private(path.parent):
                raise KeeperMissing(f"{path.parent} can be entered by others: chmod 700 it")
            self._socket.connect(str(path))
            if keeper_socket.peer_uid(self._socket) != os.getuid():
                raise KeeperMissing(f"{path} is another user's")
            self._lines = self._socket.makefile("rb")
            self.greeting = self._heard()
        except OSError as error:
            self._socket.close()
            raise KeeperMissing(f"no keeper answers: {error}") from error
        except DayflyError:
            self._socket.close()
            raise

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the keeper; what it was entrusted with stays with it."""
        self._lines.close()
        self._socket.close()

    @property
    def process(self) -> dict[str, Any]:
        """The keeper, as the journal describes processes."""
        described: dict[str, Any] = self.greeting["keeper"]
        return described

    def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One message and its answer.

        Raises:
            KeeperMissing: the keeper ended, or does not answer.
        """
        try:
            self._socket.sendall(json.dumps({"op": operation, **fields}).encode() + b"\n")
        except OSError as error:
            raise KeeperMissing(f"the keeper does not listen: {error}") from error
        return self._heard()

    def entrust(self, run: str, variables: Mapping[str, str], *, own: bool = True) -> None:
        """Gives a run into its care; `own` where this process is, or speaks for, the run's own client.

        Raises:
            KeeperMissing: it did not take it.
        """
        answer = self.ask("entrust", run=run, variables=dict(variables), own=own)
        if "entrusted" not in answer:
            raise KeeperMissing(f"the keeper refused run {run}: {answer.get('refused')}")

    def _heard(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise KeeperMissing(f"the keeper does not answer: {error}") from error
        if not line:
            raise KeeperMissing("the keeper ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def call(workspace: Workspace) -> subprocess.Popen[bytes] | None:
    """Starts a keeper where there is none, without waiting for it.

    Returns:
        Its process; None where another is there, or is being started by someone else.

    Raises:
        KeeperMissing: nothing can be started here.
    """
    STARTED[:] = [process for process in STARTED if process.poll() is None]
    folder = keeper.folder_of(workspace.home)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # Taken here and handed on: of two hundred clients that begin at once, one starts a keeper.
        lock = keeper.lock(folder)
        if lock is None:
            return None
        try:
            process = isolated.start(
                [sys.executable, "-P", "-m", "dayfly.runtime.keeper", _version(), str(lock)],
                cwd=workspace.home,
                log=folder / "start.log",
                environment=workspace.bare_environment(),
                pass_fds=(lock,),
            )
        finally:
            os.close(lock)
    except OSError as error:
        raise KeeperMissing(f"the keeper cannot be started: {error}") from error
    STARTED.append(process)
    return process


def reach(workspace: Workspace) -> Line:
    """The keeper: the one that is there, one that has to be started, or the successor of an outdated one.

    Raises:
        KeeperMissing: it could not be started; says why.
    """
    line = _reached(workspace)
    if not _is_outdated(line):
        return line
    with line:
        kept = line.ask("retire").get("variables", {})
    wait_until_gone(line.process)
    line = _reached(workspace)
    for run, variables in kept.items():
        line.entrust(run, variables)
    return line


def _reached(workspace: Workspace) -> Line:
    until = time.monotonic() + _START_S
    started = None
    while True:
        try:
            return Line(workspace)
        except KeeperMissing as missing:
            if started is None or started.poll() is not None:
                if started is not None and started.returncode:
                    raise KeeperMissing(f"the keeper ended at once: {_words(workspace)}") from None
                started = call(workspace)
            if time.monotonic() > until:
                raise KeeperMissing(f"{missing}, for {_START_S:.0f} s") from None
            time.sleep(_POLL_S)


def _words(workspace: Workspace) -> str:
    """The last thing that a keeper said on stderr."""
    log = keeper.folder_of(workspace.home) / "start.log.err"
    with contextlib.suppress(OSError, IndexError):
        return log.read_text(errors="replace").strip().splitlines()[-1]
    return "it said nothing"


def _is_outdated(line: Line) -> bool:
    """Whether the keeper is of an older version than this client, or its interpreter has been removed."""
    older = _numbers(line.greeting["version"]) < _numbers(_version())
    return older or not Path(line.greeting["python"]).exists()


@functools.cache
def _version() -> str:
    return importlib.metadata.version("dayfly")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def wait_until_gone(process: Mapping[str, Any]) -> None:
    """Waits for a keeper that was told to end."""
    until = time.monotonic() + _ANSWER_S
    while journal.is_alive(process) and time.monotonic() < until:
        time.sleep(_POLL_S)


def belongings(workspace: Workspace, history: History) -> dict[str, str]:
    """What this process has in its environment and an act on this run must see: credentials of the provider and of the
    backend, and the secrets that have to be masked in the log; of every provider where the journal does not say which."""
    known = history.provider in providers.names()
    names = (history.provider,) if known else providers.names()
    declared = {name: os.environ[name] for name in history.secrets if name in os.environ}
    for name in names:
        declared |= workspace.credentials(providers.load(name))
    return declared


def entrust(workspace: Workspace, runs: Iterable[History], *, own: bool = True) -> dict[str, Any]:
    """Gives open runs into the keeper's care, with what this process has for them.

    Args:
        workspace: where runs are kept.
        runs: which.
        own: whether this process is their client.

    Returns:
        The keeper, as the journal describes processes.

    Raises:
        KeeperMissing: it is not there.
    """
    # Before there is a keeper: providers take a while to be loaded, and a new one does not wait for long before it acts.
    given = [(history.id, belongings(workspace, history)) for history in runs]
    with reach(workspace) as line:
        for run, variables in given:
            line.entrust(run, variables, own=own)
        return line.process
