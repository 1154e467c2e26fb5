"""Runs a command so that nothing that happens to this process happens to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# A graceful stop lets the operation in flight finish and be recorded.
_GRACE_S = 120.0
_ROUNDS = 200


@dataclass(frozen=True)
class Completed:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


def start(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a command in its own session, without input, with its output in files.

    A signal to our process group then never reaches it, and it never dies of a closed pipe: with the CLI in
    our own group and its output in our pipe, one Ctrl-C left a billed machine in every trial.

    Args:
        command: the command and its arguments.
        cwd: its working directory.
        log: the file for its standard output; standard error goes beside it with ".err".
        environment: all that it sees.
        pass_fds: descriptors that it holds while it lives.
    """
    error_log = log.with_suffix(log.suffix + ".err")
    for file in (log, error_log):
        file.touch(mode=0o600)
    with log.open("ab") as output, error_log.open("ab") as errors:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,
            pass_fds=tuple(pass_fds),
            umask=0o077,
        )


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Runs a command to its end; past `timeout_s` it is interrupted once, gracefully, and then ended with all it started.

    Returns:
        Its exit code (124 where it had to be ended) and what it printed in this run.
    """
    errors = log.with_suffix(log.suffix + ".err")
    before = _size(log), _size(errors)
    process = start(command, cwd=cwd, log=log, environment=environment, pass_fds=pass_fds)
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        # Once only: a second signal would make the CLI drop the operation in flight.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        try:
            code = process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            end(process)
            code = 124
    if code < 0:
        # Somebody has killed it: what it had started does not notice that, and would stay for ever.
        end(process)
    return Completed(code, _from(log, before[0]), _from(errors, before[1]))


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a command that was started in its own session, and everything in that session; there is no way back."""
    for _ in range(_ROUNDS):
        # One that forks meanwhile is met in the next round; the leader is last, since its end frees the session's number.
        others = _session(process.pid) - {process.pid}
        for pid in others:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not others:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()


def _session(leader: int) -> set[int]:
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _from(file: Path, offset: int) -> str:
    with file.open("rb") as data:
        data.seek(offset)
        return data.read().decode(errors="replace")
