"""Two homes on this computer play two computers that share a bucket: one submits, the other one attaches."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dayfly.runtime.agent.job_folder import CLIENT_SILENT_S
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from tests import conftest
from tests.emulators.s3 import S3, s3
from tests.engine.client import WAIT_S, Client, alive, dayfly, wait_until_closed

pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.long]
_BUCKET = "state"
_SCRIPT = """
import sys
from dayfly import cluster


@cluster(provider="local", environment=[])
def work(flag):
    import os, time

    print("begun", flush=True)
    while not os.path.exists(flag):
        time.sleep(0.02)
    with open(os.environ["DAYFLY_OUTPUT_DIR"] + "/note", "w") as note:
        note.write("left behind")
    print("ended", flush=True)
    return ["a", "value"]


"""
_FOLLOWS = 'print("value", work({flag!r}), flush=True)\n'
_LETS_GO = "job = work.submit({flag!r})\nprint('detached', job.detach(), flush=True)\n"


@dataclass
class Place:
    """Both computers, and what they share.

    Attributes:
        here: the home of the one that submits.
        there: that of the other one.
        store: has the bucket in which the state is.
        flag: lets the function end.
    """

    here: Path
    there: Path
    store: S3
    flag: Path

    def client(self, how: str) -> Client:
        """One that submits."""
        return Client(self.here, 0, _SCRIPT + how.format(flag=str(self.flag)))

    def elsewhere(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on the other computer."""
        return dayfly(*arguments, DAYFLY_HOME=str(self.there))

    def attached(self, *arguments: str) -> subprocess.Popen[str]:
        """A command there that goes on meanwhile, once it has printed something."""
        words = self.there / f"{arguments[0]}.err"
        with words.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "dayfly.runtime.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"DAYFLY_HOME": str(self.there)},
            )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n", words.read_text()
        return process

    @property
    def backend(self) -> str:
        """URL of the state."""
        return self.store.backend(_BUCKET)

    @property
    def objects(self) -> dict[str, bytes | None]:
        """Everything that is in the bucket."""
        return {key: self.store.get(f"{_BUCKET}/{key}") for key in self.store.keys(_BUCKET, "")}

    def of_run(self, run: str) -> list[str]:
        """Names of what lies in the bucket of a run."""
        return [key for key in self.objects if run in key]

    def await_kept(self, run: str) -> None:
        """Waits until another computer can attach."""
        until = time.monotonic() + WAIT_S
        while journal.read(self.here / "runs" / run).last("session_kept") is None:
            assert time.monotonic() < until, (self.here / "client.log").read_text()
            time.sleep(0.05)


@pytest.fixture
def place(
    clean_environment: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    with s3() as store:
        for name, value in store.variables().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DAYFLY_BACKEND", store.backend(store.make(_BUCKET)))
        passphrase = clean_environment / "passphrase"
        passphrase.write_text("5" * 64 + "\n")
        passphrase.chmod(0o600)
        shutil.copy2(passphrase, there / "passphrase")
        yield Place(clean_environment, there, store, tmp_path / "flag")
        (tmp_path / "flag").touch()
        # Keepers that look after what is over need the bucket for that.
        conftest.see_out_keeper(there)
        conftest.see_out_keeper(clean_environment)


def machines(run: str) -> list[str]:
    """Command lines of what belongs to a run, but for a keeper that looks after it."""
    return [line for line in alive(run) if "dayfly.runtime.tend" not in line]


def _last_heard(file: Path, seconds: float) -> None:
    """As if the last word of a client had come so long ago."""
    then = time.time() - seconds
    os.utime(file, (then, then))


def _end(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=WAIT_S)
    return out


def test_a_run_that_was_let_go_of_is_taken_in_hand_on_another_computer(place: Place) -> None:
    """Log, value and outputs come there, the machine is proved gone there, nothing is left in the bucket, and the first
    computer closes it, too, without a bill of its own."""
    with place.client(_LETS_GO) as client:
        assert client.end() == 0, client.said
        run = client.run
        assert "on another computer with this state backend" in client.said
    kept = place.objects
    assert any(f"{run}-session" in key for key in kept)
    key = (place.here / "runs" / run / "hmac_key").read_bytes()
    for secret in (key.hex().encode(), base64.b64encode(key), b"PRIVATE KEY", b"UFJJVkFURSBLRVk"):
        assert not [name for name, content in kept.items() if content and secret in content]
    process = place.attached("attach", run[:12])
    directory = place.there / "runs" / run
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "user_key").stat().st_mode) == 0o600
    shown = json.loads(place.elsewhere("ps", "--json").stdout)
    assert [(found["id"], found["status"]) for found in shown] == [(run, "RUNNING")]
    place.flag.touch()
    assert _end(process) == "ended\n['a', 'value']\n"
    assert process.returncode == 0, (place.there / "attach.err").read_text()
    assert (directory / "outputs" / "note").read_text() == "left behind"
    receipt = json.loads((directory / journal.RECEIPT).read_text())
    assert (receipt["left"], receipt["how"]) == (0, "pulumi")
    assert place.of_run(run) == []
    # Its keeper may have looked since; else the command is what finds out.
    over = dayfly("attach", run)
    assert over.returncode in (1, 73), over.stderr
    assert over.stdout == ""
    wait_until_closed(place.here, run)
    mine = json.loads((place.here / "runs" / run / journal.RECEIPT).read_text())
    assert (mine["usd"], mine["left"], mine["destroyed"]) == (0.0, 0, 0)
    assert machines(run) == []
    again = place.elsewhere("attach", run)
    assert again.stdout.endswith("['a', 'value']\n")


@pytest.mark.clients
def test_a_client_that_follows_its_run_is_taken_from_only_when_that_is_said(place: Place) -> None:
    """Without it nothing changes, and watching needs none; with it the first client is told, and ends with that error."""
    with place.client(_FOLLOWS) as client:
        run = client.reach("job_started")
        place.await_kept(run)
        busy = place.elsewhere("attach", run)
        assert busy.returncode == 73, busy.stderr
        assert f"dayfly attach --take {run[:12]}" in busy.stderr
        assert machines(run)
        assert client.process.poll() is None
        watching = place.attached("logs", "-f", run)
        process = place.attached("attach", "--take", run)
        assert client.end() == 1
        assert "TakenOver" in client.said
        assert json.loads(dayfly("ps", "--json").stdout)[0]["status"] == "RUNNING"
        place.flag.touch()
        assert _end(process) == "ended\n['a', 'value']\n"
        assert process.returncode == 0, (place.there / "attach.err").read_text()
        assert _end(watching) == "ended\n"
    assert place.of_run(run) == []
    assert machines(run) == []


@pytest.mark.clients
def test_a_laptop_that_was_closed_gives_its_run_away_and_learns_of_it_when_it_wakes(
    place: Place,
) -> None:
    """Its client stands still; half a minute after its last word another computer just attaches, and not before."""
    with place.client(_FOLLOWS) as client:
        run = client.reach("job_started")
        place.await_kept(run)
        client.signal(signal.SIGSTOP)
        # Its machine notes there when it has heard of it, and what has passed since is not waited for here.
        (heard,) = (place.here / "runs" / run).rglob(f"job-{run}/followed")
        _last_heard(heard, CLIENT_SILENT_S - 10)
        busy = place.elsewhere("attach", run)
        assert busy.returncode == 73, busy.stderr
        _last_heard(heard, CLIENT_SILENT_S)
        process = place.attached("attach", run)
        place.flag.touch()
        assert _end(process) == "ended\n['a', 'value']\n"
        assert process.returncode == 0, (place.there / "attach.err").read_text()
        client.signal(signal.SIGCONT)
        assert client.end() == 1
        assert "TakenOver" in client.said
    assert machines(run) == []
    assert place.of_run(run) == []
    wait_until_closed(place.here, run)


@pytest.mark.clients
def test_what_stands_in_the_way_is_said_and_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No passphrase, another one, no such run, a folder for a backend, a bucket that is away."""
    with place.client(_FOLLOWS) as client:
        run = client.reach("job_started")
        place.await_kept(run)
        passphrase = place.there / "passphrase"
        passphrase.rename(place.there / "right")
        missing = place.elsewhere("attach", run)
        assert missing.returncode == 2
        assert "copy it from DAYFLY_HOME" in missing.stderr
        assert not passphrase.exists()
        passphrase.write_text("7" * 64)
        wrong = place.elsewhere("attach", run)
        assert wrong.returncode == 2
        assert "is not the passphrase that the run was started with" in wrong.stderr
        (place.there / "right").rename(passphrase)
        unknown = place.elsewhere("attach", "f" * 12)
        assert unknown.returncode == 2
        assert "nor beside the state in s3://state" in unknown.stderr
        folder = dayfly("attach", run, DAYFLY_HOME=str(place.there), DAYFLY_BACKEND="file:///tmp")
        assert folder.returncode == 2
        assert "on the computer that started it" in folder.stderr
        away = place.backend.replace(f"127.0.0.1:{place.store.port}", "127.0.0.1:9")
        unreachable = dayfly("attach", run, DAYFLY_HOME=str(place.there), DAYFLY_BACKEND=away)
        assert unreachable.returncode == 70, unreachable.stderr
        assert "s3://state cannot be used" in unreachable.stderr
        assert not list((place.there / "runs").iterdir())
        assert client.process.poll() is None
        place.flag.touch()
        assert client.end() == 0, client.said
    wait_until_closed(place.here, run)
    assert place.of_run(run) == []


@pytest.mark.clients
def test_a_run_of_another_computer_is_cancelled_from_here(place: Place) -> None:
    """Whoever started it: its machine is proved gone, and nothing is left in the bucket."""
    with place.client(_LETS_GO) as client:
        assert client.end() == 0, client.said
        run = client.run
    done = place.elsewhere("cancel", "--yes", run[:12])
    assert done.returncode == 0, done.stderr
    assert machines(run) == []
    assert place.of_run(run) == []


def test_a_short_function_leaves_nothing_beside_the_state_at_any_time(place: Place) -> None:
    """There is nothing to attach to before it is worth the engine's calls."""
    place.flag.touch()
    with place.client(_FOLLOWS) as client:
        run = client.reach("job_started")
        assert client.end() == 0, client.said
    wait_until_closed(place.here, run)
    history = journal.read(place.here / "runs" / run)
    assert history.last("session_keeping") is None
    assert place.of_run(run) == []
