"""The fence: nothing passes once it is shut, and whoever shuts it knows when the last one is through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dayfly.infra import fence
from dayfly.infra.fence import FenceShut

_LATER = 2e9


def test_several_may_be_inside_at_once(tmp_path: Path) -> None:
    """They do not wait for each other."""
    with fence.passing(tmp_path, _LATER, lambda: 1.0), fence.passing(tmp_path, _LATER, lambda: 1.0):
        assert not fence.is_shut(tmp_path)


def test_a_shut_fence_lets_nobody_pass(tmp_path: Path) -> None:
    """For good: also when whoever shut it has gone."""
    fence.shut(tmp_path)
    with pytest.raises(FenceShut, match="is being closed"), fence.passing(tmp_path, _LATER):
        pytest.fail("it was passed")
    assert fence.is_passed(tmp_path, 0.0)


def test_nothing_is_created_after_the_deadline(tmp_path: Path) -> None:
    """An orphan may wake up hours later."""
    with (
        pytest.raises(FenceShut, match="deadline"),
        fence.passing(tmp_path, 100.0, lambda: 100.0),
    ):
        pytest.fail("it was passed")


def test_nothing_is_created_for_a_run_without_a_directory(tmp_path: Path) -> None:
    """Somebody has cleaned up: there is nobody who would ever end it."""
    with (
        pytest.raises(FenceShut, match="no directory"),
        fence.passing(tmp_path / "gone", _LATER),
    ):
        pytest.fail("it was passed")


def test_whoever_is_inside_is_waited_for_and_a_dead_one_is_not(tmp_path: Path) -> None:
    """Another process holds it; the system lets go when that dies."""
    code = (
        "import sys, pathlib, time\n"
        "from dayfly.infra import fence\n"
        f"with fence.passing(pathlib.Path({str(tmp_path)!r}), {_LATER}):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == b"in\n"
        fence.shut(tmp_path)
        clock = [0.0]

        def sleep(seconds: float) -> None:
            clock[0] += seconds

        assert not fence.is_passed(tmp_path, 5.0, now=lambda: clock[0], sleep=sleep)
        inside.kill()
    assert fence.is_passed(tmp_path, 0.0)
