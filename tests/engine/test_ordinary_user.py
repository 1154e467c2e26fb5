"""The whole call as an ordinary user, who has none of root's rights: what most people's first run is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

import dayfly
from dayfly.stacks.engine import COMPANIONS, Engine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        os.getuid() != 0, reason="an ordinary user runs every other test of this folder as itself"
    ),
]

_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SCRIPT = """
import getpass, json, os, sys
from dayfly import cluster


@cluster(provider="local", environment=[])
def whoami():
    import os
    print("there", flush=True)
    return os.getuid(), os.environ["HOME"]


if __name__ == "__main__":
    job = whoami.submit()
    uid, home = job.result()
    receipt = job.receipt()
    print(json.dumps({"here": os.getuid(), "there": uid, "home": home, "left": receipt.left,
                      "destroyed": receipt.destroyed}))
"""
# In a mount namespace of its own `nobody` may log in, and sees this interpreter and its packages outside
# root's home; the computer's own files stay as they are.
_NAMESPACE = """
set -eu
mount --bind "$1/passwd" /etc/passwd
mount --bind "$2" "$1/python"
mount --bind "$3" "$1/site"
shift 3
exec setpriv --reuid nobody --regid nogroup --clear-groups "$@"
"""


@pytest.mark.tried("local", "real", "Linux as an ordinary user")
@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")
@pytest.mark.usefixtures("own_mounts")
def test_a_call_works_and_leaves_nothing_as_an_ordinary_user(engine: Engine) -> None:
    """`nobody` calls a function, gets its value and receipt, and has no process afterwards."""
    # Not below pytest's own folder, which it closes to others.
    with tempfile.TemporaryDirectory(prefix="dayfly-nobody-") as name:
        folder = Path(name)
        _furnish(folder, engine)
        done = _as_nobody(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert "there" in told
    assert '"left": 0' in told[-1]
    assert '"destroyed": 2' in told[-1]
    nobody = re.search(r"^nobody:[^:]*:(\d+):", Path("/etc/passwd").read_text(), re.MULTILINE)
    assert nobody
    assert f'"here": {nobody[1]}, "there": {nobody[1]}' in told[-1]
    listed = subprocess.run(["pgrep", "-u", "nobody", "-f", name], capture_output=True, check=False)
    assert listed.stdout == b""


def _furnish(folder: Path, engine: Engine) -> None:
    folder.chmod(0o755)
    for mount_point in ("python", "site"):
        (folder / mount_point).mkdir()
    # The package by itself: an editable install's links lead where `nobody` may not go.
    shutil.copytree(Path(dayfly.__file__).parent, folder / "code" / "dayfly")
    _make_venv(folder)
    (folder / "bin").mkdir()
    for program in ("pulumi", *COMPANIONS):
        shutil.copy(engine.bin_dir / program, folder / "bin")
    (folder / "script.py").write_text(_SCRIPT)
    subprocess.run(["chown", "-R", "nobody", str(folder)], check=True)
    accounts = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(re.sub(r"(?m)^(nobody:.*:)[^:]*$", r"\1/bin/sh", accounts))
    (folder / "passwd").chmod(0o644)


def _make_venv(folder: Path) -> None:
    """By hand, since its interpreter is there only inside the namespace."""
    packages = folder / "venv" / "lib" / _PYTHON / "site-packages"
    packages.mkdir(parents=True)
    (packages / "dayfly.pth").write_text(f"{folder}/code\n{folder}/site\n")
    (folder / "venv" / "bin").mkdir()
    (folder / "venv" / "bin" / _PYTHON).symlink_to(folder / "python" / "bin" / _PYTHON)
    (folder / "venv" / "pyvenv.cfg").write_text(f"home = {folder}/python/bin\n")


def _as_nobody(folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {
        "PATH": f"{folder}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "DAYFLY_HOME": str(folder / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    places = [str(folder), sys.base_prefix, sysconfig.get_path("purelib")]
    program = [str(folder / "venv" / "bin" / _PYTHON), str(folder / "script.py")]
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", _NAMESPACE, "sh", *places, *program],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
