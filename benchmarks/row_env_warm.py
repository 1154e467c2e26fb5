"""Row `env_warm`: an environment that is there already, found by its hash."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.report import Row, Say
from dayfly.runtime import environment, wheels

_TRIALS = 11
_MOST_MS = 300.0
_PROJECT = """
[project]
name = "bench"
version = "1"
requires-python = ">=3.11"
dependencies = ["locallib"]
[tool.uv.sources]
locallib = { path = "library" }
"""
_BACKEND = """
import os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    wheel = "locallib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, wheel), "w") as archive:
        archive.writestr("locallib.py", "VALUE = 1")
        archive.writestr("locallib-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: locallib\\nVersion: 1.0\\n")
        archive.writestr("locallib-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr("locallib-1.0.dist-info/RECORD", "")
    return wheel
"""
_LIBRARY = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "locallib"
version = "1.0"
"""


def measure(say: Say) -> Row:
    """from the project's lock file to the Python of the environment on a machine that has it, against a `uv sync` of the same project that has nothing to do; medians of 11 in turn"""
    ours: list[float] = []
    peer: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="dayfly-bench-") as name,
        machine.running() as bench,
        bench.session() as session,
    ):
        project, cache = Path(name) / "project", Path(name) / "cache"
        _furnish(project)
        _uv(project, "lock", "--offline")

        def found() -> None:
            made = environment.recipe(None, project, same_computer=True, cache=cache)
            session.build_environment(made, lambda _: None)

        found()
        _uv(project, "sync", "--offline")
        for number in range(_TRIALS):
            ours.append(machine.timed(found) * 1e3)
            peer.append(machine.timed(lambda: _uv(project, "sync", "--offline")) * 1e3)
            say(f"{number + 1} of {_TRIALS}: ours {ours[-1]:.1f} ms, uv sync {peer[-1]:.1f} ms")
    value, other = statistics.median(ours), statistics.median(peer)
    return Row(
        "env_warm",
        round(value, 3),
        "uv sync",
        round(other, 3),
        "ms",
        f"<= {_MOST_MS:.0f} ms and <= 1 x peer",
        value <= min(_MOST_MS, other),
    )


def _furnish(project: Path) -> None:
    (library := project / "library").mkdir(parents=True)
    (project / "pyproject.toml").write_text(_PROJECT)
    (library / "pyproject.toml").write_text(_LIBRARY)
    (library / "backend.py").write_text(_BACKEND)


def _uv(project: Path, *arguments: str) -> None:
    command = [str(wheels.own_uv()), *arguments, "--quiet", "--python", sys.executable]
    variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(command, cwd=project, env=variables, check=True)
