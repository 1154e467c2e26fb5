"""Imports only point runtime -> stacks -> infra; what is heavy or foreign stays in its place."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "infra": {"infra"},
    "stacks": {"infra", "stacks"},
    "runtime": {"infra", "stacks", "runtime"},
}


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in it."""
    return frozenset(_imported(file))


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if file.parent == ROOT / "runtime" / "agent" and node.level == 1:
                continue  # It travels as a package of another name.
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module or ""


def sources(folder: str) -> list[Path]:
    """The layer's own files."""
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("layer", sorted(BELOW))
def test_a_layer_imports_only_what_is_below_it(layer: str) -> None:
    """`dayfly.errors` is the one thing that all may import."""
    for file in sources(layer):
        if "api" in file.parts:
            continue
        for name in imported(file):
            parts = name.split(".")
            if parts[0] == "dayfly" and len(parts) > 1 and parts[1] != "errors":
                assert parts[1] in BELOW[layer], f"{file.relative_to(ROOT)} imports {name}"


def test_only_runtime_ssh_imports_paramiko() -> None:
    """Foreign exceptions stop at the one place that imports the foreign library."""
    for file in [path for layer in BELOW for path in sources(layer)]:
        if file.parent != ROOT / "runtime" / "ssh":
            assert not [name for name in imported(file) if name.split(".")[0] == "paramiko"], file


def test_the_agent_and_the_guardian_need_the_standard_library_only() -> None:
    """They run where nothing is installed."""
    for file in (*sources("runtime/agent"), ROOT / "infra" / "loopback.py"):
        foreign = (
            {name.split(".")[0] for name in imported(file)}
            - set(sys.stdlib_module_names)
            - {"cloudpickle", "fsspec"}  # in processes of the environment's Python
            - {"compression"}  # of the standard library from Python 3.14 on
            - {"_sha2", "_sha256"}  # of the standard library from Python 3.12 on, and until then
        )
        assert not foreign, f"{file.name} imports {foreign}"


@pytest.mark.process
def test_import_dayfly_loads_nothing_heavy() -> None:
    """Neither pulumi nor paramiko, nor what the decorator alone does not need."""
    code = (
        "import sys, dayfly; from dayfly import cluster\n"
        "@cluster(provider='local')\ndef f(): ...\n"
        "print(sorted(set(sys.modules) & {'pulumi', 'paramiko', 'grpc', 'rich', 'click', 'cryptography'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_names_a_package_registry_s_host_or_a_path_of_a_machine() -> None:
    """The project installs from whatever index its user has configured."""
    hosts = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "proxy." + "golang" + ".org",
        "registry." + "npmjs",
    ]
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        text = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        for host in hosts:
            assert host.encode() not in text, f"{name} names {host}"
