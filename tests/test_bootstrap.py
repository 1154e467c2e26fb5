"""What `make` does first on a fresh machine: its shell functions, with stand-ins for what would change the computer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

_SCRIPT = (Path(__file__).parent.parent / "scripts" / "bootstrap.sh").read_text()
# Everything above this line only defines.
_FUNCTIONS = _SCRIPT[: _SCRIPT.index("export PIP_DISABLE_PIP_VERSION_CHECK")]


def _program(folder: Path, acts: str) -> list[str]:
    """A shell with the functions, whose checkout is `folder` and whose policy file is in it."""
    (folder / "scripts").mkdir()
    text = _FUNCTIONS.replace("/usr/sbin/policy-rc.d", str(folder / "policy-rc.d"))
    assert str(folder / "policy-rc.d") in text
    file = folder / "scripts" / "bootstrap.sh"
    file.write_text(f'{text}\nas_root() {{ "$@"; }}\n{acts}\n')
    return ["sh", str(file)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_installation_leaves_no_policy_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    """It would keep the services of all later packages off."""
    # Short sleeps: a shell that gets the signal just before it starts one looks at it only afterwards.
    acts = "apt_install() { touch begun; while :; do sleep 0.1; done; }\ninstall_sshd"
    with subprocess.Popen(_program(tmp_path, acts), start_new_session=True) as shell:
        until = time.monotonic() + 30
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert "exit 101" in (tmp_path / "policy-rc.d").read_text()
        os.killpg(shell.pid, number)
    assert shell.returncode == 130
    assert not (tmp_path / "policy-rc.d").exists()


def test_a_policy_that_was_there_stays_and_ours_goes(tmp_path: Path) -> None:
    """Whether the installation works or not."""
    acts = "apt_install() { [ -x policy-rc.d ]; }\ninstall_sshd && echo installed"
    command = _program(tmp_path, acts)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "installed\n"
    assert not (tmp_path / "policy-rc.d").exists()
    (tmp_path / "policy-rc.d").write_text("its owner's")
    assert subprocess.run(command, capture_output=True, check=False).returncode
    assert (tmp_path / "policy-rc.d").read_text() == "its owner's"


def test_uv_is_found_where_its_installer_puts_it(tmp_path: Path) -> None:
    """The command that the message names has changed no PATH of this shell."""
    home = tmp_path / "home" / ".local" / "bin"
    home.mkdir(parents=True)
    # Stands in for a download of Python: a virtual environment of this interpreter.
    (home / "uv").write_text(f"#!/bin/sh\nexec {sys.executable} -m venv .venv\n")
    (home / "uv").chmod(0o755)
    variables = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    command = _program(tmp_path, "with_uv")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "made .venv with uv's Python 3." in done.stdout
