"""What is large is in the client's memory once: an argument where the user has it, a result where it stays."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SIZE = 128 << 20
# What the connection itself takes: windows, packets on their way, the packages that a first call loads.
_ELSE = 64 << 20


@pytest.mark.sshd
@pytest.mark.parametrize(
    ("kind", "way", "most"),
    [
        ("in", "warm", 1.15 * SIZE),
        ("both", "own", 1.15 * 2 * SIZE),
        pytest.param("in", "nodes", 1.15 * SIZE, marks=pytest.mark.nodes),
        pytest.param("both", "nodes", 1.15 * 2 * SIZE, marks=pytest.mark.nodes),
    ],
)
def test_an_array_is_in_the_clients_memory_once(
    tmp_path: Path, kind: str, way: str, most: float
) -> None:
    """One of 128 MiB in, and another out, in a fresh process: one copy more would be as much again."""
    command = [sys.executable, "-m", "tests.array_client", str(tmp_path), kind, way, str(SIZE)]
    # A process begins with the peak of the one that it was forked from: a shell is small, these tests are not.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.9 * SIZE < int(done.stdout) < most + _ELSE


@pytest.mark.sshd
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed here; `pip install torch` has this test made",
)
def test_a_tensor_is_in_the_clients_memory_once(tmp_path: Path) -> None:
    """One in, another out: torch's own way would write each of them into buffers of its own."""
    command = [sys.executable, "-m", "tests.array_client", str(tmp_path), "tensors", "own"]
    command = ["sh", "-c", '"$@"; exit $?', "sh", *command, str(SIZE)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.9 * SIZE < int(done.stdout) < 1.15 * 2 * SIZE + _ELSE
