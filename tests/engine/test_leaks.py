"""What could leave a machine behind, or claim that none is left, does neither."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import JobStopped
from dayfly.infra import providers
from dayfly.runtime.attach import cancel
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.census import survey
from dayfly.stacks.workspace import Workspace
from tests import keepers

pytestmark = [pytest.mark.engine, pytest.mark.sshd]


_UNPROVED = (
    "from dayfly import cluster\n"
    "from dayfly.infra import providers\n"
    "from dayfly.errors import DayflyError\n"
    "def refused(*_): raise DayflyError('the API is down')\n"
    "@cluster(environment=[])\ndef f(): return 7\n"
    "job = f.submit(); print(job.result())\n"
    "type(providers.load('local')).inventory = refused\n"
)


def left(workspace: Workspace) -> list[Any]:
    """What the provider still lists of this test's owner."""
    return list(providers.load("local").inventory(workspace.owner))


@pytest.mark.clients
def test_a_passphrase_that_is_lost_while_a_run_is_up_blocks_nothing(workspace: Workspace) -> None:
    """The engine cannot read its state; the provider's API ends the machine, and the receipt says so."""
    job = cluster(environment=[])(time.sleep).submit(3)
    while journal.read(workspace.directory(job.id)).last("job_started") is None:
        time.sleep(0.05)
    (workspace.home / "passphrase").write_text("")
    assert job.result(timeout=120) is None
    receipt = job.receipt(timeout=120)
    assert (receipt.how, receipt.left) == ("provider", 0)
    assert any("passphrase" in note for note in receipt.notes)
    assert left(workspace) == []


@pytest.mark.clients
def test_cancel_ends_a_run_with_retries_for_good(workspace: Workspace) -> None:
    """What another command has ended on purpose is no failure to try again after."""
    job = cluster(environment=[], retries=2)(time.sleep).submit(600)
    while journal.read(workspace.directory(job.id)).last("job_started") is None:
        time.sleep(0.05)
    code = f"from dayfly.runtime.attach import cancel; print(cancel({job.id!r}, print).left)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"
    with pytest.raises(JobStopped):
        job.result(timeout=120)
    job.wait_closed()
    assert len(journal.histories(workspace.runs, closed=True)) == 1
    assert left(workspace) == []


def test_a_teardown_that_fails_is_loud_and_its_own_command_finishes_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Exit 75 with the value printed, the machine still up; then `dayfly gc --run ID --yes` ends it."""
    script = tmp_path / "client.py"
    script.write_text(_UNPROVED)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "7\n"
    assert done.returncode == 75, done.stderr
    assert "the API is down" in done.stderr
    (history,) = journal.histories(workspace.runs, closed=True)
    assert f"dayfly gc --run {history.id} --yes" in done.stderr
    command = [sys.executable, "-m", "dayfly.runtime.cli", "gc", "--run", history.id, "--yes"]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert journal.read(history.directory).closed
    assert left(workspace) == []


@pytest.mark.clients
def test_what_a_client_could_not_prove_the_keeper_proves(
    workspace: Workspace, tmp_path: Path
) -> None:
    """The same failure, and nobody types its command."""
    script = tmp_path / "client.py"
    script.write_text(_UNPROVED)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 75, done.stderr
    (history,) = journal.histories(workspace.runs, closed=True)
    until = time.monotonic() + 60
    while not journal.read(history.directory).closed:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert left(workspace) == []


def test_an_orphan_is_destroyed_by_the_next_call(workspace: Workspace, tmp_path: Path) -> None:
    """Nobody has to type `dayfly ps` for it."""
    script = tmp_path / "client.py"
    script.write_text(
        "import time\nfrom dayfly import cluster\n@cluster(environment=[])\ndef f(): pass\nf()\n"
    )
    client = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (found := journal.histories(workspace.runs)) or found[0].last("up_started") is None:
        time.sleep(0.02)
    client.send_signal(signal.SIGSTOP)
    keepers.started(workspace.home).kill()
    client.send_signal(signal.SIGKILL)
    client.wait()
    orphan = found[0].directory
    assert cluster(environment=[], wait_for_teardown=True)(abs)(-3) == 3
    until = time.monotonic() + 60
    while not journal.read(orphan).closed and time.monotonic() < until:
        time.sleep(0.1)
    assert journal.read(orphan).closed
    assert left(workspace) == []


def test_a_run_that_is_being_born_is_never_an_orphan(workspace: Workspace) -> None:
    """Its directory appears with its intent in it; what is being made stands elsewhere. Once it is closed, its teardown may be
    asked for at any time, and gives its receipt again."""
    job = cluster(environment=[])(abs).submit(-1)
    seen = set()
    while not job.done():
        for finding in survey(workspace):
            seen.add(finding.status)
    first = job.receipt(timeout=120)
    assert "ORPHAN" not in seen
    assert not list((workspace.home / "making").iterdir())
    assert cancel(job.id, print) == first
    assert Context.open().workspace == workspace


@pytest.mark.clients
def test_a_forked_child_of_a_program_with_open_jobs_ends(tmp_path: Path) -> None:
    """It has none of the threads that its parent's jobs run in."""
    script = tmp_path / "client.py"
    script.write_text(
        "import multiprocessing, time\nfrom dayfly import cluster\n"
        "def child(): print('child', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    job = cluster(environment=[])(time.sleep).submit(1)\n"
        "    process = multiprocessing.get_context('fork').Process(target=child)\n"
        "    process.start(); process.join(60); print(process.exitcode, job.result())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["child", "0", "None"], done.stderr


@pytest.mark.clients
@pytest.mark.parametrize(
    ("how", "printed"),
    [("", ["3"]), (', nodes=2, distributed="torchrun"', ["[0] 3", "[1] 3"])],
    ids=["one machine", "two machines"],
)
def test_a_job_that_is_a_programs_last_statement_comes_to_its_end(
    tmp_path: Path, how: str, printed: list[str]
) -> None:
    """The process waits for it, though nobody else does."""
    script = tmp_path / "client.py"
    script.write_text(
        "from dayfly import cluster\n"
        f"cluster(provider='local', environment=[]{how})(print).submit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert sorted(done.stdout.splitlines()) == printed, done.stderr
    assert done.returncode == 0, done.stderr


def test_a_function_that_fails_behind_its_program_is_told(tmp_path: Path) -> None:
    """Nobody asks for its value; the exit code says so, and its own words are there."""
    script = tmp_path / "client.py"
    script.write_text(
        "from dayfly import cluster\n"
        "@cluster(provider='local', environment=[])\ndef f(): raise KeyError('mine')\n"
        "f.submit()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "has failed, and nobody has asked for its value:\nKeyError: 'mine'" in done.stderr
    assert "def f(): raise KeyError('mine')" in done.stderr
