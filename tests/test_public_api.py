"""The public face: `dayfly` itself and its errors."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dayfly
from dayfly import errors


def test_all_is_sorted_and_every_name_is_there() -> None:
    """What is in `__all__` can be imported, and nothing else is public."""
    assert sorted(dayfly.__all__) == dayfly.__all__
    for name in dayfly.__all__:
        assert getattr(dayfly, name) is not None
    assert set(dayfly.__all__) <= set(dir(dayfly))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="'clutser'"):
        dayfly.clutser  # noqa: B018


def test_every_error_has_a_docstring_a_phase_and_stands_in_the_tree() -> None:
    """The tree in the docstring is the tree."""
    tree = errors.__doc__ or ""
    for name, found in vars(errors).items():
        if inspect.isclass(found) and issubclass(found, errors.DayflyError):
            assert found.__doc__, name
            assert name in tree
            assert found.phase in (
                "plan",
                "provision",
                "connect",
                "environment",
                "data",
                "run",
                "result",
                "teardown",
            )
            assert 0 < found.exit_code < 126


@pytest.mark.process
def test_a_typed_user_s_program_checks_under_mypy_strict(tmp_path: Path) -> None:
    """A decorated function keeps its signature, with and without parentheses; a wrong argument is an error."""
    good = Path(__file__).parent / "typed_example.py"
    ast.parse(good.read_text())
    bad = tmp_path / "bad.py"
    bad.write_text(
        good.read_text() + "\n\ndef wrong() -> None:\n    halve('three')\n    doubled.submit()\n"
    )
    # One run for both: most of the time goes into what they import.
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental"]
    command += ["--cache-dir", str(tmp_path / "cache"), str(good), str(bad)]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    wrong = [line for line in checked.stdout.splitlines() if "error:" in line]
    assert len(wrong) == 2, checked.stdout
    assert all("bad.py" in line for line in wrong), checked.stdout
