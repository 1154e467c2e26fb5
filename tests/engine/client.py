"""A real client process, followed by its journal: what signals and crashes are tried on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests import keepers

WAIT_S = 90.0
Pulumi = Callable[..., subprocess.CompletedProcess[str]]
_CHECKOUT = Path(__file__).parents[2]
SCRIPT = """
import sys
from dayfly import cluster


@cluster(provider="local", environment=[])
def work(seconds):
    import time

    print("begun", flush=True)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
    return seconds


print("value", work(float(sys.argv[1])), flush=True)
"""


class Client:
    """One process that calls a function for `seconds`.

    Lifecycle: constructing starts it, leaving ends it.
    """

    def __init__(self, home: Path, seconds: float, code: str = SCRIPT) -> None:
        self.home = home
        self.log = home / "client.log"
        script = home / "client.py"
        script.write_text(code)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(seconds)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        """All of its output so far."""
        return self.log.read_text()

    @property
    def run(self) -> str:
        """The id of its run, "" before there is one."""
        folder = self.home / "runs"
        return next(iter(os.listdir(folder)), "") if folder.exists() else ""  # noqa: PTH208  # names only

    @property
    def events(self) -> list[str]:
        """The names of its journal's events."""
        file = self.home / "runs" / self.run / "journal.jsonl"
        if not self.run or not file.exists():
            return []
        lines = file.read_text().splitlines()
        return [str(json.loads(line)["event"]) for line in lines]

    def reach(self, event: str) -> str:
        """Waits for an event of its journal and returns the run's id."""
        until = time.monotonic() + WAIT_S
        while event not in self.events:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.005)
        return self.run

    def hear(self, text: str) -> None:
        """Waits until its output has a text."""
        until = time.monotonic() + WAIT_S
        while text not in self.said:
            assert time.monotonic() < until, self.said
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """Sends one signal."""
        self.process.send_signal(number)

    def die_unkept(self) -> None:
        """SIGKILL for it and for its keeper: what is left is left to whoever comes next."""
        self.signal(signal.SIGSTOP)
        keeper = keepers.started(self.home)
        keeper.kill()
        keepers.wait(keeper)
        self.signal(signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Waits for its end and returns its exit code, as a shell shows it."""
        code = self.process.wait(WAIT_S)
        return code if code >= 0 else 128 - code


def dayfly(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dayfly.runtime.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        env=os.environ | variables,
    )


def plain_project(folder: Path) -> Pulumi:
    """`pulumi` in a copy of the checkout's project, whose stack files belong to nobody."""
    (folder / "stacks").mkdir(parents=True)
    for file in ("Pulumi.yaml", "stacks/__main__.py"):
        shutil.copy(_CHECKOUT / file, folder / file)
    return plain_cli(folder)


def plain_cli(project: Path) -> Pulumi:
    """`pulumi` in a project's folder, with the environment that `dayfly engine env` prints."""
    exports = dayfly("engine", "env").stdout.splitlines()
    variables = dict(shlex.split(line)[1].split("=", 1) for line in exports)
    assert {"PATH", "PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"} <= set(variables)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=project,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def alive(run: str) -> list[str]:
    """Command lines of every process that belongs to a run, read without any code of ours."""
    found = []
    for process in psutil.process_iter():
        try:
            command, variables = process.cmdline(), process.environ()
            tagged = run in (variables.get("DAYFLY_RUN"), variables.get("DAYFLY_STACK"))
            named = any(run in part for part in command)
            if (tagged or named) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(command))
        except psutil.Error:
            continue
    return found


def locks(home: Path) -> list[Path]:
    """The engine's lock files."""
    return [path for path in (home / "state/.pulumi/locks").rglob("*") if path.is_file()]


def wait_until_closed(home: Path, run: str) -> None:
    """Waits for the receipt that another process writes."""
    until = time.monotonic() + WAIT_S
    while not (home / "runs" / run / "receipt.json").exists() or alive(run):
        assert time.monotonic() < until, (home / "runs" / run / "journal.jsonl").read_text()
        time.sleep(0.05)
