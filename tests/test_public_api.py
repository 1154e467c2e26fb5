"""The public face: `dayfly` itself and its errors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dayfly
from dayfly import errors

_CHECKOUT = Path(__file__).parent.parent


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


@pytest.mark.long
@pytest.mark.process
def test_all_types_are_right_and_a_user_s_are_checked_under_mypy_strict(tmp_path: Path) -> None:
    """`make types` finds nothing, in `typed_example.py` neither: a decorated function keeps its signature, with and without
    parentheses. A wrong argument is an error.

    It is one test because the second run of mypy takes from the first's cache what both import, which takes a minute to read;
    and it is a test so that the others run meanwhile.
    """
    types = [sys.executable, "-m", "mypy"]
    checked = subprocess.run(types, check=False, capture_output=True, text=True, cwd=_CHECKOUT)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    good = Path(__file__).parent / "typed_example.py"
    bad = tmp_path / "bad.py"
    bad.write_text(
        good.read_text() + "\n\ndef wrong() -> None:\n    halve('three')\n    doubled.submit()\n"
    )
    command = [*types, "--strict", str(bad)]
    checked = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_CHECKOUT)
    wrong = [line for line in checked.stdout.splitlines() if "error:" in line]
    assert len(wrong) == 2, checked.stdout + checked.stderr
    assert all("bad.py" in line for line in wrong), checked.stdout
