"""Where trials run: a home of their own, fresh processes, and the proof that nothing of them is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from dayfly.infra import providers
from dayfly.stacks import engine, journal

ROOT = Path(__file__).parent.parent
_TRIAL_LIMIT_S = 600.0
# A connection's own sshd sees its client go a moment after the client has gone, and a keeper stays five seconds for
# whoever comes next.
_SETTLE_S = 20.0


class TrialFailed(Exception):
    """A trial gave no number; has what it said."""


@contextlib.contextmanager
def new_home(variables: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A private folder for the state of trials; what an interrupted one left is ended before it is removed.

    Args:
        variables: what is to be seen beside, to end that.
    """
    folder = Path(tempfile.mkdtemp(prefix="dayfly-bench-"))
    try:
        yield folder
    finally:
        _kill(process for process in processes(folder) if _is_trial(process))
        if (folder / "runs").exists() and journal.histories(folder / "runs"):
            command = [sys.executable, "-m", "dayfly.runtime.cli", "gc", "--yes", "--held"]
            subprocess.run(command, env={**environment(folder), **(variables or {})}, check=False)
        _kill(processes(folder))
        shutil.rmtree(folder, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """What a trial sees: this process's variables, none of the user's settings, the engine first on PATH."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DAYFLY_", "PULUMI_", "LAMBDA_")) or name == "DAYFLY_ENGINE_HOME"
    }
    path = os.pathsep.join([str(engine.ensure(print).bin_dir), os.environ.get("PATH", os.defpath)])
    config = str(home / "config")
    return kept | {"DAYFLY_HOME": str(home), "XDG_CONFIG_HOME": config, "PATH": path}


def run(
    command: Sequence[str],
    home: Path,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Runs a command to its end, in `home` or another folder, and gives what it printed.

    Raises:
        TrialFailed: it did not end well.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder or home,
            env=environment(home) | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(f"{command!r} did not end in {_TRIAL_LIMIT_S:g} s") from error
    if done.returncode:
        raise TrialFailed(f"{command!r} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def start(
    module: str, home: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a trial in a fresh interpreter, with `variables` beside its environment; its output goes to files in `home`."""
    with (home / "trial.out").open("wb") as output, (home / "trial.err").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            cwd=ROOT,
            env=environment(home) | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )


def answer(process: subprocess.Popen[bytes], home: Path) -> Any:
    """Waits for a trial's end, its teardown included, and gives what it printed last, from JSON.

    Raises:
        TrialFailed: it did not end well.
    """
    try:
        code = process.wait(_TRIAL_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    printed = (home / "trial.out").read_text().splitlines()
    if code or not printed:
        said = (home / "trial.err").read_text(errors="replace")[-2000:]
        raise TrialFailed(f"{process.args!r} ended with {code}: {said}")
    return json.loads(printed[-1])


def wait(
    what: str,
    condition: Callable[[], object],
    limit_s: float,
    said: Callable[[], str] = str,
    every_s: float = 0.005,
) -> float:
    """Waits until a condition holds, which is looked at every `every_s`.

    Returns:
        The unix time at which it was seen to hold.

    Raises:
        TrialFailed: it did not within `limit_s`; has what `said` gives then, which may raise earlier.
    """
    until = time.monotonic() + limit_s
    while not condition():
        words = said()
        if time.monotonic() > until:
            raise TrialFailed(f"{what} did not come in {limit_s:g} s: {words}")
        time.sleep(every_s)
    return time.time()


def trial(module: str, home: Path, *arguments: str) -> Any:
    """One trial from start to answer."""
    return answer(start(module, home, *arguments), home)


def processes(home: Path) -> list[psutil.Process]:
    """Every process of the trials in `home`: by the home or run that it carries, else by its command line."""
    runs = home / "runs"
    ids = {entry.name for entry in runs.iterdir()} if runs.exists() else set()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            carried = process.environ()
            mine = {carried.get("DAYFLY_RUN"), carried.get("DAYFLY_STACK")} & ids
            mine |= {carried.get("DAYFLY_HOME")} & {str(home)}
            if mine or any(str(home) in part for part in process.cmdline()):
                found.append(process)
    return found


def _is_trial(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(part.startswith("benchmarks.") for part in process.cmdline())
    return False


def _kill(doomed: Iterable[psutil.Process]) -> None:
    killed = list(doomed)
    for process in killed:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(killed, timeout=_SETTLE_S)


def leftovers(home: Path) -> list[str]:
    """What the trials in `home` have left: live processes, runs that are not closed, listed machines, stacks, locks."""
    until = time.monotonic() + _SETTLE_S
    while (alive := processes(home)) and time.monotonic() < until:
        time.sleep(0.05)
    state = home / "state" / ".pulumi"
    kept = [*state.glob("stacks/**/*.json"), *state.glob("locks/**/*.json")]
    return [
        *(f"process {process.pid}" for process in alive),
        *_open_runs(home / "runs"),
        *(str(file.relative_to(home)) for file in kept),
    ]


def _open_runs(runs: Path) -> Sequence[str]:
    if not runs.exists():
        return []
    histories = journal.histories(runs, closed=True)
    owners = {history.run.owner for history in histories if history.provider}
    listed = [found for owner in owners for found in providers.load("local").inventory(owner)]
    return [
        *(f"run {history.id} is open" for history in histories if not history.closed),
        *(f"{found.kind} {found.id} of run {found.run} is listed" for found in listed),
    ]
