"""provider="local": a real sshd for each run, its own home, and nothing left when it is deleted."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dayfly.errors import ConfigurationError, SpecError
from dayfly.infra import processes, providers, sshd
from dayfly.infra.providers import local
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from tests.runs import TESTER

pytestmark = pytest.mark.sshd
PROVIDER = providers.load("local")
RUN = new_id()


def make_key(file: Path) -> str:
    """A key by the system's own tool; returns the public half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(file)], check=True
    )
    return Path(f"{file}.pub").read_text().strip()


def make_host_key(folder: Path) -> Path:
    """The private half of a host key."""
    make_key(folder / "host_key")
    return folder / "host_key"


@pytest.fixture
def props(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The inputs of a machine; whatever lives of it is ended."""
    tmp_path.chmod(0o700)
    yield {
        "run": RUN,
        "owner": TESTER,
        "deadline": int(time.time()) + 600,
        "created": int(time.time()),
        "directory": str(tmp_path / "machine"),
        "authorized_key": make_key(tmp_path / "user_key"),
        "host_key_file": str(make_host_key(tmp_path)),
    }
    processes.end_run(RUN)


def ssh(props: dict[str, Any], port: int, command: str) -> str:
    """Runs a command over the system's own ssh."""
    key = str(Path(props["directory"]).parent / "user_key")
    options = [
        "-F",
        os.devnull,
        "-i",
        key,
        "-p",
        str(port),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "LogLevel=ERROR",
    ]
    options += [
        "-o",
        f"UserKnownHostsFile={os.devnull}",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "IdentityAgent=none",
    ]
    user = psutil.Process().username()
    done = subprocess.run(
        ["ssh", *options, f"{user}@127.0.0.1", command],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def alive() -> list[str]:
    """Kinds of what the inventory lists of this test's run."""
    return [found.kind for found in PROVIDER.inventory(TESTER)]


def test_a_login_sees_its_own_home_and_the_run_s_tag(props: dict[str, Any]) -> None:
    """Not the home of the user whose computer it is."""
    made = local.InstanceProvider().create(props)
    ready = local.ReadyProvider().create({"run": RUN, "port": made.outs["port"]})
    assert ready.outs["banner"].startswith("SSH-2.0-")
    said = ssh(props, made.outs["port"], 'echo "$HOME $DAYFLY_RUN $DAYFLY_OWNER"')
    assert said == f"{props['directory']}/home {RUN} {TESTER}"
    assert "__provider" not in made.outs
    assert PROVIDER.instance_state(made.id) == "running"
    local.InstanceProvider().delete(made.id, props)
    assert PROVIDER.instance_state(made.id) == "terminated"
    assert not Path(props["directory"]).exists()


def test_another_accounts_name_in_the_environment_changes_nothing(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`su` leaves LOGNAME and USER as they were."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    made = local.InstanceProvider().create(props)
    assert ssh(props, made.outs["port"], "echo in") == "in"
    assert sshd.account() == psutil.Process().username()


def test_a_user_without_an_account_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""
    with (
        monkeypatch.context() as inside,
        pytest.raises(ConfigurationError, match="uid 3999999999 has none"),
    ):
        inside.setattr(os, "getuid", lambda: 3_999_999_999)
        sshd.account()


def test_delete_ends_a_double_forked_grandchild(props: dict[str, Any]) -> None:
    """Whoever tries to slip away is still below the guardian, or carries the tag."""
    port = local.InstanceProvider().create(props).outs["port"]
    slip = "import os,time; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
    ssh(props, port, f"{sys.executable} -c '{slip}' >/dev/null 2>&1 </dev/null; sleep 0.2")
    assert sorted(alive()) == ["instance", "process"]
    local.InstanceProvider().delete("", props)
    assert alive() == []


def test_a_killed_guardian_s_orphans_are_found_by_their_tag(props: dict[str, Any]) -> None:
    """The inventory needs no state: the environment of each process says whose it is."""
    port = local.InstanceProvider().create(props).outs["port"]
    ssh(props, port, "nohup sleep 600 >/dev/null 2>&1 </dev/null &")
    guardian = next(found for found in PROVIDER.inventory(TESTER) if found.kind == "instance")
    os.kill(int(guardian.id), signal.SIGKILL)
    while "instance" in alive():
        time.sleep(0.02)
    left = PROVIDER.inventory(TESTER)
    assert {found.run for found in left} == {RUN}
    for found in left:
        PROVIDER.terminate(found)
    assert alive() == []


def test_the_machine_ends_itself_at_its_deadline(props: dict[str, Any]) -> None:
    """With no client and no keeper anywhere."""
    local.InstanceProvider().create({**props, "deadline": time.time() + 1.0})
    until = time.monotonic() + 20
    while alive() and time.monotonic() < until:
        time.sleep(0.05)
    assert alive() == []


def test_the_inventory_lists_one_owner_only(props: dict[str, Any]) -> None:
    """Another owner's machine is none of ours."""
    local.InstanceProvider().create(props)
    assert PROVIDER.inventory("someone-else") == []


def test_a_folder_that_others_can_read_is_refused(props: dict[str, Any]) -> None:
    """StrictModes is off, so this check stands in its place."""
    directory = Path(props["directory"])
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        local.InstanceProvider().create(props)


def test_no_sshd_is_one_clear_error_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything exists, through preflight."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    (missing,) = PROVIDER.preflight()
    assert "needs sshd" in missing
    assert "install" in missing
    assert PROVIDER.failure(missing) == "invalid"


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        ("apt-get", "sudo apt-get install openssh-server"),
        ("dnf", "sudo dnf install openssh-server"),
        ("pacman", "sudo pacman -S openssh"),
        ("apk", "sudo apk add openssh-server"),
    ],
)
def test_the_install_command_is_that_of_the_system(
    tool: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian, Fedora, Arch and Alpine each have another one."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name == tool else None)
    (missing,) = PROVIDER.preflight()
    assert missing.endswith(f": {command}")


def test_a_uid_without_an_account_is_refused_before_anything_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody can log in as it; containers are often started so."""
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    (missing,) = PROVIDER.preflight()
    assert "uid 54321 has none in /etc/passwd" in missing


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cores": 10**6}, "the nearest that fits is cores="),
        ({"memory": "900TB"}, "this computer has"),
        ({"disk": "900TB"}, "free"),
        ({"nodes": 33}, "at most 32 machines"),
        ({"region": "us-east-1"}, "has no region 'us-east-1'"),
        ({"instance_type": "gpu_1x_a100"}, "has no instance_type"),
        ({"gpu": "B300:64"}, "B300:64"),
    ],
)
def test_what_this_computer_does_not_have_is_refused_by_name(
    options: dict[str, Any], words: str
) -> None:
    """With the nearest that fits, before anything exists."""
    with pytest.raises(SpecError, match=words.replace("(", r"\(")):
        PROVIDER.offers(Spec(**options))


def test_a_port_where_nobody_answers_fails_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is a resource of its own, and may fail without losing the machine."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(local, "_READY_TIMEOUT_S", 0.1)
    with pytest.raises(Exception, match="did not answer"):
        local.ReadyProvider().create({"run": RUN, "port": port})


NEEDED = (
    "dayfly",
    "psutil",
    "platformdirs",
    "py",
    "pytest",
    "_pytest",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
)


def _others_may_run(file: Path) -> bool:
    real = file.resolve()
    return real.exists() and all(part.stat().st_mode & 0o001 for part in (real, *real.parents))


def _interpreter_for_others() -> str:
    """One that an ordinary user can execute: root's own is often below root's home."""
    for candidate in (
        Path(sys.executable),
        *sorted(Path("/usr/bin").glob("python3.1[1-9]"), reverse=True),
    ):
        if _others_may_run(candidate):
            return str(candidate.resolve())
    pytest.skip("no Python 3.11+ on this computer can be executed by an ordinary user")


@pytest.mark.skipif(
    os.getuid() != 0, reason="an ordinary user runs every other test of this file as itself"
)
@pytest.mark.usefixtures("own_mounts")
def test_it_works_as_an_ordinary_user() -> None:
    """The tests of this file, run again as the user `nobody` when we are root."""
    # Not below pytest's own folder, which it closes to others time and again.
    with tempfile.TemporaryDirectory(prefix="dayfly-nobody-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        _run_as_nobody(folder)


def _run_as_nobody(folder: Path) -> None:
    here = Path(__file__).parent
    shutil.copytree(
        here, folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "faults", "engine")
    )
    shutil.copy(here.parent / "pyproject.toml", folder)
    for name in NEEDED:
        source = Path(str(importlib.import_module(name).__file__))
        if source.name == "__init__.py":
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source.parent, folder / "site" / name, ignore=skipped)
        else:
            shutil.copy(source, folder / "site")
    for layer in ("infra", "stacks", "runtime"):
        shutil.copytree(here.parent / layer, folder / "site" / "dayfly" / layer, dirs_exist_ok=True)
    subprocess.run(["chown", "-R", "nobody", str(folder)], check=True)
    passwd = folder / "passwd"
    passwd.write_text(
        re.sub(r"(?m)^(nobody:.*:)[^:]*$", r"\1/bin/sh", Path("/etc/passwd").read_text())
    )
    passwd.chmod(0o644)
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(folder / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    tests = [
        _interpreter_for_others(),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(folder / "tmp"),
    ]
    # In a mount namespace of its own, `nobody` is a user who may log in; the computer's own files stay as they are.
    script = (
        f"mount --bind {passwd} /etc/passwd"
        ' && exec setpriv --reuid nobody --regid nogroup --clear-groups "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *tests, "tests/test_local.py"],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
