"""The guardian of a local machine: whom it finds below itself, with /proc and without."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dayfly.infra import loopback
from dayfly.runtime.agent import files


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


@pytest.mark.parametrize("clock", [loopback.boot_seconds, files.boot_clock_s])
def test_a_deadline_goes_on_in_sleep_also_where_there_is_no_boottime(
    clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS the system's CLOCK_MONOTONIC counts sleep, and Python's time.monotonic() is another clock."""
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_MONOTONIC: 12.5}.__getitem__)
    assert clock() == 12.5


@pytest.mark.macos
@pytest.mark.skipif(sys.platform != "darwin", reason="macOS: not run in CI")
def test_on_macos_the_system_s_own_sshd_is_found() -> None:
    """It is part of the system; the other tests of the local provider then run as they do elsewhere."""
    from dayfly.infra import sshd

    assert sshd.path() == "/usr/sbin/sshd"


def test_a_connection_that_cannot_be_served_is_not_the_end_of_the_machine() -> None:
    """sshd may be missing while a package is replaced, and a client may be gone before it is accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        reading, writing = os.pipe()
        args = (listener, ["/nonexistent/sshd", "-i"], 1.0, reading)
        serving = threading.Thread(target=loopback.serve, args=args)
        serving.start()
        for _ in range(3):
            with socket.create_connection(listener.getsockname()) as client:
                assert client.recv(1) == b""
        assert serving.is_alive()
        os.write(writing, bytes([signal.SIGTERM]))
        serving.join(10)
        assert not serving.is_alive()
        for descriptor in (reading, writing):
            os.close(descriptor)
