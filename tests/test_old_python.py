"""A machine whose only Python is 3.8: the agent runs there, and the function in a Python of its own minor that uv fetches."""

from __future__ import annotations

import io
import json
import os
import platform
import shlex
import shutil
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import EnvironmentFailed
from dayfly.runtime import payload
from dayfly.runtime.environment import PYTHON, Recipe
from dayfly.runtime.session import Session
from tests import namespaces
from tests.sshd import Server, sshd
from tests.test_session import Runs

_LEFT_OUT = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages"}
_LEFT_OUT |= {"test", "tests", "tkinter", "turtledemo"}


def python_38() -> str | None:
    """Where this computer has one."""
    kept = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))
    return str(kept[-1]) if kept else shutil.which("python3.8")


pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(namespaces.refusal()), reason=namespaces.refusal()),
    pytest.mark.skipif(python_38() is None, reason="no Python 3.8 on this computer"),
    pytest.mark.skipif(sys.platform != "linux", reason="mounts of its own are Linux's"),
]


def hidden() -> list[str]:
    """A command before another one, to which the system's other Pythons are files that cannot be run."""
    folders = [Path("/usr/bin"), Path("/usr/local/bin")]
    found = [path for folder in folders for path in folder.glob("python3*")]
    real = {path.resolve() for path in found if not path.name.startswith("python3.8")}
    mounts = "".join(f"mount --bind /dev/null {shlex.quote(str(path))} && " for path in real)
    return ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh"]


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Server]:
    """The machine."""
    old_python = python_38()
    assert old_python is not None
    (programs := tmp_path / "bin").mkdir()
    for name in ("python3", "python3.8"):
        (programs / name).symlink_to(old_python)
    path = f"{programs}:{os.defpath}"
    with sshd(tmp_path / "machine", path=path, within=hidden()) as server:
        yield server


def archive(path: Path) -> None:
    """This Python as uv fetches one: all of it in a folder `python`, wherever that is put."""
    library = Path(sysconfig.get_path("stdlib"))

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(entry.name).name
        return None if name in _LEFT_OUT or name.startswith("config-") else entry

    with tarfile.open(path, "w:gz", compresslevel=1) as made:
        made.add(os.path.realpath(sys.executable), f"python/bin/python{PYTHON}")
        made.add(library, f"python/lib/python{PYTHON}", filter=kept)
        made.addfile(_empty_folder(f"python/lib/python{PYTHON}/site-packages"), io.BytesIO())


def _empty_folder(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A web server of this computer that has this Python; uv's settings for it."""
    (folder := tmp_path / "mirror").mkdir()
    archive(folder / "python.tar.gz")

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, directory=str(folder), **more)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as web:
        serving = threading.Thread(target=web.serve_forever, args=(0.01,))
        serving.start()
        address = f"http://127.0.0.1:{web.server_port}"
        cpu, patch = platform.machine(), sys.version_info[2]
        entry = {
            "name": "cpython",
            "arch": {"family": cpu, "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": sys.version_info[0],
            "minor": sys.version_info[1],
            "patch": patch,
            "prerelease": "",
            "url": f"{address}/python.tar.gz",
            "sha256": None,
            "variant": None,
            "build": None,
        }
        listed = {f"cpython-{PYTHON}.{patch}-linux-{cpu}-gnu": entry}
        (folder / "pythons.json").write_text(json.dumps(listed))
        yield {"UV_PYTHON_DOWNLOADS_JSON_URL": f"{address}/pythons.json"}
        web.shutdown()
        serving.join()


def test_the_function_runs_in_a_python_that_uv_has_fetched(
    old: Server, mirror: dict[str, str], tmp_path: Path
) -> None:
    """Once for all later runs there; the agent's own is 3.8 all the time."""

    def where() -> tuple[list[int], str]:
        return list(sys.version_info[:2]), os.path.realpath(sys.executable)

    runs = Runs(old, payload.pickler_zip(tmp_path), tmp_path)
    recipe = Recipe(PYTHON, "", (), "none", mirror)
    with Session(old.machine, old.keys) as session:
        assert session.facts.pythons == ("3.8",)
        python = session.build_environment(recipe, lambda _: None)
        # From now on the machine has one itself.
        found = session.build_environment(recipe, pytest.fail)
        assert Path(found).is_relative_to(old.home.parent / "cache" / "python")
        session.start(replace(runs.task(where), python=python))
        version, path = runs.outcome(session).value
    assert version == list(sys.version_info[:2])
    assert Path(path).is_relative_to(old.home.parent / "cache" / "python")


def test_without_it_the_machine_says_that_it_cannot_be_had(old: Server) -> None:
    """Where the client could not know: downloads are off."""
    recipe = Recipe(PYTHON, "", (), "none", {"UV_PYTHON_DOWNLOADS": "never"})
    with (
        Session(old.machine, old.keys) as session,
        pytest.raises(EnvironmentFailed, match=f"Python {PYTHON}"),
    ):
        session.build_environment(recipe, lambda _: None)
