"""The guardian of a local machine: whom it finds below itself, with /proc and without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dayfly.infra import loopback


@pytest.mark.parametrize("look", [loopback._parents_by_proc, loopback._parents_by_ps])
def test_a_child_s_parent_is_found_either_way(look: object) -> None:
    """macOS has no /proc; its `ps` says the same."""
    if look is loopback._parents_by_proc and sys.platform != "linux":
        pytest.skip("there is no /proc here")
    assert callable(look)
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert look()[child.pid] == os.getpid()
        finally:
            child.kill()


def test_descendants_are_those_below_and_not_oneself() -> None:
    """A child's child is one; this process is none of its own."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        below = loopback.descendants(os.getpid())
        assert shell.pid in below
        assert len(loopback.descendants(shell.pid)) == 1
        assert os.getpid() not in below
        for pid in [*loopback.descendants(shell.pid), shell.pid]:
            os.kill(pid, 9)


def test_the_clock_of_the_deadline_goes_on() -> None:
    """And cannot be set by anyone."""
    assert loopback.boot_seconds() <= loopback.boot_seconds()


@pytest.mark.macos
@pytest.mark.skipif(sys.platform != "darwin", reason="macOS: not run in CI")
def test_on_macos_the_system_s_own_sshd_is_found() -> None:
    """It is part of the system; the other tests of the local provider then run as they do elsewhere."""
    from dayfly.infra import sshd

    assert sshd.path() == "/usr/sbin/sshd"
