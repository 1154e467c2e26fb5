"""The command that starts the agent, under the shells and interpreters that a machine may have."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from dayfly.runtime.agent import frames
from dayfly.runtime.ssh import bootstrap

pytestmark = pytest.mark.process

RUN = secrets.token_hex(16)
OPENING = bytes(16) + bytes(range(32)) + bytes.fromhex(RUN)


def pythons() -> list[str]:
    """Every interpreter of this computer that the agent must run under, or refuse."""
    system, pyenv = Path("/usr/bin"), Path.home() / ".pyenv/versions"
    found = {*map(str, system.glob("python3*")), *map(str, pyenv.glob("3.*/bin/python3"))}
    return sorted(
        {path for path in found if os.access(path, os.X_OK) and not path.endswith("-config")}
    )


# The agent is sent when it was asked for.
ASKED = bootstrap.NO_AGENT + bootstrap.agent_block()


def start(python: str, home: Path, blocks: bytes, shell: str = "sh") -> bytes:
    """Run the command with `python` as the only one there is, send what it needs, and give all that it wrote."""
    command = bootstrap.command(RUN, "~/cache dir").replace("/usr/bin/python3", "/nowhere")
    (home / "bin").mkdir(exist_ok=True)
    link = home / "bin" / "python3"
    link.unlink(missing_ok=True)
    link.symlink_to(python)
    for tool in ("sh", "env"):
        if not (home / "bin" / tool).exists():
            (home / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    environment = {"HOME": str(home), "PATH": str(home / "bin")}
    program = shutil.which(shell)
    assert program
    ended = subprocess.run(
        [program, "-c", command],
        input=OPENING + blocks,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 3 or (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout


def welcome(output: bytes) -> dict[str, object]:
    key = frames.channel_keys(OPENING[16:48], OPENING[:16])[1]
    head, _ = frames.decode(frames.unseal(key, RUN, 0, output))
    return head


@pytest.mark.parametrize("python", pythons())
def test_the_agent_answers_under_every_interpreter_of_this_computer(
    python: str, tmp_path: Path
) -> None:
    """From 3.8 on: when it has to be asked for, when it is there, and when it came unasked; older ones are told apart."""
    version = subprocess.run(
        [python, "-c", "import sys;print(*sys.version_info[:2])"], capture_output=True, check=True
    )
    major, minor = map(int, version.stdout.split())
    first = start(python, tmp_path, ASKED)
    if (major, minor) < (3, 8):
        assert first == bootstrap.MARK + bootstrap.TOO_OLD
        return
    assert first.startswith(bootstrap.MARK + bootstrap.NEED_AGENT)
    assert welcome(first[len(bootstrap.MARK) + 1 :])["python"] == f"{major}.{minor}"
    (folder,) = (tmp_path / "cache dir" / "agents").iterdir()
    assert bootstrap.text_of(folder) == bootstrap.agent_text()
    for blocks in (bootstrap.NO_AGENT, bootstrap.agent_block()):
        again = start(python, tmp_path, blocks)
        assert again.startswith(bootstrap.MARK + bootstrap.READY)
    (folder / "frames.py").unlink()
    unasked = start(python, tmp_path, bootstrap.agent_block())
    assert unasked.startswith(bootstrap.MARK + bootstrap.READY)
    assert bootstrap.text_of(folder) == bootstrap.agent_text()


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh", "csh", "ksh"])
def test_any_login_shell_starts_it(shell: str, tmp_path: Path) -> None:
    """The command is one line that they all read alike; shells that are not installed are skipped."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    output = start("/usr/bin/python3", tmp_path, ASKED, shell)
    assert output.startswith(bootstrap.MARK + bootstrap.NEED_AGENT)


def test_the_command_holds_nothing_secret() -> None:
    """It is seen by everyone who lists processes: run id, cache folder and a hash are all there is."""
    command = bootstrap.command(RUN, "~/.cache/dayfly")
    assert "\n" not in command
    assert bytes(range(32)).hex() not in command
