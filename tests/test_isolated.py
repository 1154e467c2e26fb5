"""A command that runs isolated survives its parent, loses no output, and is interrupted once at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dayfly.stacks import isolated

pytestmark = pytest.mark.process

_PARENT = """
import os, sys
from pathlib import Path
from dayfly.stacks import isolated

folder = Path(sys.argv[1])
isolated.run(
    [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(0.5); print('ended')"],
    cwd=folder, log=folder / "log", environment=os.environ, timeout_s=60,
)
"""
_SLOW = """
import signal, sys, time
count = 0
def interrupted(*_):
    global count
    count += 1
    print("interrupted", count, flush=True)
signal.signal(signal.SIGINT, interrupted)
print("ready", flush=True)
until = time.monotonic() + 1.5
while time.monotonic() < until:
    time.sleep(0.05)
print("recorded", count)
sys.exit(5)
"""


def _wait_for(file: Path, text: str) -> None:
    until = time.monotonic() + 30
    while not file.exists() or text not in file.read_text():
        assert time.monotonic() < until, f"{text!r} never came"
        time.sleep(0.02)


def _wait_gone(child: int) -> None:
    until = time.monotonic() + 30
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the child lives on"
        time.sleep(0.02)


def _run(folder: Path, code: str, timeout_s: float = 30) -> isolated.Completed:
    return isolated.run(
        [sys.executable, "-c", code],
        cwd=folder,
        log=folder / "log",
        environment=os.environ,
        timeout_s=timeout_s,
    )


def test_output_and_exit_code_come_back_complete_and_apart(tmp_path: Path) -> None:
    """Also a last line without an end, and more than a pipe would hold."""
    code = "import sys; print('x' * 300_000); sys.stderr.write('no end'); sys.exit(3)"
    done = _run(tmp_path, code)
    assert (done.code, done.stdout, done.stderr) == (3, "x" * 300_000 + "\n", "no end")


def test_each_run_gives_its_own_output_only(tmp_path: Path) -> None:
    """The file goes on growing: it is the run's log."""
    _run(tmp_path, "print('first')")
    assert _run(tmp_path, "print('second')").stdout == "second\n"
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_it_has_no_input_a_session_of_its_own_and_private_files(tmp_path: Path) -> None:
    """No signal to our group reaches it, and nothing that it writes can be read by others."""
    code = "import os, sys; open('made', 'w').close(); print(os.getsid(0) == os.getpid(), sys.stdin.read())"
    done = _run(tmp_path, code)
    assert done.stdout.split() == ["True"]
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_it_sees_the_given_environment_and_nothing_else(tmp_path: Path) -> None:
    """A secret of this process does not get through."""
    done = isolated.run(
        ["/usr/bin/env"], cwd=tmp_path, log=tmp_path / "log", environment={"A": "1"}, timeout_s=30
    )
    assert done.stdout == "A=1\n"


def test_it_survives_the_sigkill_of_its_parent(tmp_path: Path) -> None:
    """The operation in flight ends by itself, and its output is there for whoever comes next."""
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)]) as parent:
        _wait_for(tmp_path / "log", "begun")
        parent.send_signal(signal.SIGKILL)
    _wait_for(tmp_path / "log", "ended")


def test_past_its_time_it_is_interrupted_once_and_may_finish(tmp_path: Path) -> None:
    """A second signal would make the engine drop the operation in flight."""
    done = _run(tmp_path, _SLOW, timeout_s=1.0)
    assert done.code == 5
    assert done.stdout.split("\n")[-2] == "recorded 1"


_DEAF = """
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], process_group=0)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_does_not_heed_its_time_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a child in a group of its own: it would hold a lock, or go on creating, with nobody watching."""
    monkeypatch.setattr(isolated, "_GRACE_S", 0.2)
    done = _run(tmp_path, _DEAF, timeout_s=1.0)
    assert done.code == 124
    _wait_gone(int(done.stdout))


def test_what_is_killed_leaves_nothing_that_it_had_started(tmp_path: Path) -> None:
    """A provider process of the engine does not notice that its CLI is gone."""
    code = (
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], process_group=0)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = _run(tmp_path, code)
    assert done.code == -signal.SIGKILL
    _wait_gone(int(done.stdout))
