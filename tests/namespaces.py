"""Namespaces of a test's own, of mounts or of a network: root may have them, unless its container has taken that right away."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

_PROBE = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
# Put before a command: it has a network of its own, of which there is a loopback and nothing else.
OWN_NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
_CLONE_NEWNET = 0x40000000


@functools.cache
def refusal() -> str:
    """Why there can be no mount namespace here; "" where there can."""
    if os.getuid() != 0:
        return "mounts of its own take root"
    try:
        done = subprocess.run(_PROBE, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return f"mounts of its own take unshare: {error}"
    return f"no mounts of its own: {done.stderr.strip()}" if done.returncode else ""


@functools.cache
def network_refusal() -> str:
    """Why there can be no network namespace here; "" where there can."""
    if os.getuid() != 0:
        return "networks of its own take root"
    try:
        done = subprocess.run(
            [*OWN_NETWORK, "true"], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError as error:
        return f"networks of its own take unshare: {error}"
    return f"no networks of its own: {done.stderr.strip()}" if done.returncode else ""


def within(pid: int, act: Callable[[], _T]) -> _T:
    """Does something in the network that a process has; a socket stays in the network that it was made in.

    Raises:
        OSError: the process is gone.
    """

    def go_there_and_act() -> _T:
        # Of this thread alone, which ends with it.
        library = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{pid}/ns/net").open() as network:
            if library.setns(network.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return act()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(go_there_and_act).result()


def connected_within(pid: int, port: int) -> socket.socket:
    """A connection to a port of the loopback that a process has.

    Raises:
        OSError: nobody listens there, or the process is gone.
    """
    made = within(pid, lambda: socket.create_connection(("127.0.0.1", port), timeout=10))
    made.settimeout(None)
    return made
