"""One run is destroyed and proved gone whatever became of its state, its locks, its disk or its engine."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal, state
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.engine.client import alive, dayfly, locks

pytestmark = pytest.mark.engine

_ON_A_FULL_DISK = """
import os, sys, time
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.run_stack import RunStack

context = Context.open()
spec = Spec.from_options({"provider": "local"})
stack = RunStack(spec, context.workspace, context.engine(), ladder(spec))
with stack:
    while journal.read(stack.directory).last("up_ended") is None:
        time.sleep(0.05)
    with open(context.workspace.home / "filler", "wb", 0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    free = os.statvfs(context.workspace.home).f_bavail
print(free, stack.receipt.left, stack.receipt.how, stack.receipt.destroyed)
"""


class Sentinel:
    """What an attacker would put into a state: unpickling it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def standing(workspace: Workspace, engine: Engine) -> Iterator[RunStack]:
    """A stack that is up and whose engine has ended; it is closed at the end where the test has not."""
    spec = Spec.from_options({"provider": "local"})
    stack = RunStack(spec, workspace, engine, ladder(spec))
    with stack:
        while journal.read(stack.directory).last("up_ended") is None:
            time.sleep(0.02)
        assert stack._program is not None
        stack._program.wait(30)
        yield stack
    assert alive(stack.id) == []
    assert locks(workspace.home) == []


def _state_file(stack: RunStack) -> Path:
    file = state.file_of(stack.workspace, stack.id)
    assert file is not None
    return file


def _close(stack: RunStack) -> Receipt:
    receipt = stack.close()
    assert receipt.left == 0
    assert not _state_file(stack).exists()
    return receipt


def test_an_edited_provider_is_never_given_to_the_engine(
    standing: RunStack, tmp_path: Path
) -> None:
    """Pulumi would unpickle it; the machine ends through the provider's API instead."""
    sentinel = tmp_path / "sentinel"
    poison = base64.b64encode(pickle.dumps(Sentinel(sentinel), protocol=4)).decode()
    held = json.loads(_state_file(standing).read_text())
    for resource in held["checkpoint"]["latest"]["resources"]:
        for side in ("inputs", "outputs"):
            if "__provider" in resource.get(side, {}):
                resource[side]["__provider"] = poison
    assert poison in json.dumps(held)
    _state_file(standing).write_text(json.dumps(held))
    receipt = _close(standing)
    assert receipt.how == "provider"
    assert any("__provider is not Dayfly's" in note for note in receipt.notes)
    assert not sentinel.exists()


@pytest.mark.parametrize("damage", [b"", None])
def test_a_damaged_state_does_not_stop_the_teardown(
    standing: RunStack, damage: bytes | None
) -> None:
    """Emptied, or half of it: provider and journal suffice. (What else is no state: test_state.)"""
    file = _state_file(standing)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    receipt = _close(standing)
    assert receipt.how == "provider"
    assert receipt.destroyed == 1
    assert any("not readable" in note or "cannot be read" in note for note in receipt.notes)


def test_a_lost_state_does_not_stop_the_teardown(standing: RunStack) -> None:
    """A file that someone deleted."""
    _state_file(standing).unlink()
    receipt = _close(standing)
    assert receipt.destroyed == 1
    assert any("found by tag" in note for note in receipt.notes)


def test_a_wrong_passphrase_does_not_stop_the_teardown(standing: RunStack) -> None:
    """Rule 7: teardown needs no secrets provider, of the engine neither."""
    standing.workspace.passphrase_file.write_text("0" * 64 + "\n")
    receipt = _close(standing)
    assert (receipt.how, receipt.destroyed, receipt.left) == ("pulumi", 2, 0)
    assert not _state_file(standing).exists()


def _lock(stack: RunStack, pid: int, made: float | None = None) -> Path:
    """A lock as the engine writes it, now or at another time."""
    folder = stack.workspace.home / "state/.pulumi/locks/organization/dayfly" / stack.id
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "11111111-2222-3333-4444-555555555555.json"
    content = {
        "pid": pid,
        "username": "root",
        "hostname": os.uname().nodename,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made)),
    }
    file.write_text(json.dumps(content))
    return file


def test_a_stale_lock_is_broken_and_noted(standing: RunStack) -> None:
    """Its holder is dead, so nobody will ever take it away."""
    with subprocess.Popen(["true"]) as ended:
        pass
    _lock(standing, ended.pid)
    receipt = _close(standing)
    assert receipt.how == "pulumi"
    assert receipt.notes == (f"a stale lock of pid {ended.pid} was broken",)


def test_a_lock_whose_number_is_another_process_now_is_broken(standing: RunStack) -> None:
    """After a reboot the number of a dead holder is soon used again: nobody waits for that process."""
    _lock(standing, os.getpid(), made=time.time() - 86400)
    receipt = _close(standing)
    assert receipt.how == "pulumi"
    assert receipt.notes == (f"a stale lock of pid {os.getpid()} was broken",)


def test_a_lock_whose_holder_lives_is_waited_for(standing: RunStack) -> None:
    """Someone's `pulumi destroy` is at work: it is not disturbed."""
    with subprocess.Popen(["sleep", "600"]) as holder:
        lock = _lock(standing, holder.pid)
        told: list[str] = []

        def release(text: str) -> None:
            told.append(text)
            if str(holder.pid) in text:
                assert lock.exists()
                lock.unlink()

        receipt = standing.close(release)
        holder.kill()
    assert any("which has the stack locked" in text for text in told)
    assert receipt.how == "pulumi"
    assert receipt.notes == ()


def test_without_an_engine_the_providers_api_destroys(standing: RunStack) -> None:
    """And the state, which nothing will need any more, is set aside."""
    receipt = Closer(standing.workspace, None).close(standing.id)
    assert (receipt.how, receipt.left) == ("provider", 0)
    assert not _state_file(standing).exists()
    assert (standing.directory / "state.unusable.json").exists()


def test_a_plain_pulumi_destroy_of_a_run_is_no_surprise(standing: RunStack, engine: Engine) -> None:
    """`pulumi stack ls` shows it, `pulumi destroy -s RUN` works from anywhere, and closing finds nothing to do."""
    environment = standing.workspace.environment(engine, "")
    listed = _pulumi(engine, environment, standing, "stack", "ls", "--json")
    assert standing.id in {stack["name"] for stack in json.loads(listed)}
    _pulumi(engine, environment, standing, "destroy", "-s", standing.id, "--yes", "--skip-preview")
    assert alive(standing.id) == []
    assert _close(standing).left == 0


def _pulumi(engine: Engine, environment: dict[str, str], stack: RunStack, *arguments: str) -> str:
    done = subprocess.run(
        [str(engine.path), *arguments, "--non-interactive"],
        cwd=stack.workspace.project_directory(stack.id),
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _small_disk(home: Path, megabytes: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command whose state folder is on a disk of its own."""
    mount = 'mount -t tmpfs -o size="$1"m,mode=700 tmpfs "$2" && shift 2 && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", str(megabytes), str(home), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.usefixtures("own_mounts")
def test_a_full_disk_is_found_before_anything_is_created(
    clean_environment: Path, tmp_path: Path, engine: Engine
) -> None:
    """The message names the folder and the way out."""
    script = tmp_path / "call.py"
    script.write_text(
        "from dayfly import cluster\n"
        "@cluster(provider='local', environment=[])\n"
        "def nothing():\n"
        "    pass\n"
        "nothing()\n"
    )
    done = _small_disk(clean_environment, 4, sys.executable, str(script))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dayfly.errors.ConfigurationError") or "ConfigurationError" in last
    assert str(clean_environment) in last
    assert "No space left" in last
    assert "provision" not in done.stderr


@pytest.mark.usefixtures("own_mounts")
def test_a_teardown_on_a_full_disk_has_its_reserve(
    clean_environment: Path, tmp_path: Path, engine: Engine
) -> None:
    """Not a byte is free when it begins."""
    script = tmp_path / "full.py"
    script.write_text(_ON_A_FULL_DISK)
    done = _small_disk(clean_environment, 64, sys.executable, str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0", "pulumi", "2"]


def test_without_engine_and_network_nothing_is_created(
    clean_environment: Path, tmp_path: Path
) -> None:
    """EngineMissing comes before the run has so much as a directory."""
    if os.getuid() or shutil.which("unshare") is None:
        pytest.skip("no network takes root and unshare")
    script = tmp_path / "target.py"
    script.write_text("def nothing():\n    pass\n")
    places = {"DAYFLY_ENGINE_HOME": str(tmp_path / "engine"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "dayfly.runtime.cli", "run", "target:nothing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | places | {"HOME": str(tmp_path), "GOFLAGS": "", "GOMODCACHE": ""},
    )
    if "unshare failed" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 69, done.stderr
    assert "Pulumi" in done.stderr
    assert list((clean_environment / "runs").iterdir()) == []
    assert json.loads(dayfly("ps", "--json").stdout) == []
