"""The guardian of a machine that is this computer: listens on loopback, hands each connection to a real
OpenSSH server of its own, owns every process of the run, and ends them all at the deadline.

Run as a script with the standard library only, so that it costs a few megabytes and starts at once:
`python loopback.py --run ID --owner NAME --deadline UNIX --created UNIX --node N --directory DIR --sshd PATH`. Its command line carries
the tags, so that it is found when all state is lost; every process below it has DAYFLY_RUN=ID in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """On Linux, makes double-forked grandchildren children of this process, so that none can slip away."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def boot_seconds() -> float:
    """Seconds on a clock that no one sets and that goes on in sleep."""
    # macOS counts sleep in CLOCK_MONOTONIC; Python's time.monotonic() does not, which is another clock there.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def parents() -> dict[int, int]:
    """The parent of every process that can be seen."""
    return _parents_by_proc() if Path("/proc/self/stat").exists() else _parents_by_ps()


def _parents_by_proc() -> dict[int, int]:
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = Path(entry.path, "stat").read_text(errors="replace")
                table[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return table


def _parents_by_ps() -> dict[int, int]:
    """Where there is no /proc, as on macOS."""
    command = ["ps", "-axo", "pid=,ppid="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    return {int(pid): int(parent) for pid, parent in map(str.split, listing.stdout.splitlines())}


def descendants(root: int) -> list[int]:
    """Every process below `root`."""
    table, found, grown = parents(), {root}, True
    while grown:
        below = {pid for pid, parent in table.items() if parent in found} - found
        found |= below
        grown = bool(below)
    return sorted(found - {root})


def reap() -> None:
    """Collects every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_all() -> None:
    """Ends every process below this one; a child that forks meanwhile is met in the next round."""
    for _ in range(200):
        below = descendants(os.getpid())
        if not below:
            return
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        reap()


def serve(listener: socket.socket, command: list[str], remaining_s: float, wakeup: int) -> None:
    """Accepts connections until the deadline or a signal."""
    end = boot_seconds() + remaining_s
    while (left := end - boot_seconds()) > 0:
        ready, _, _ = select.select([listener.fileno(), wakeup], [], [], min(left, 60.0))
        if wakeup in ready:
            if signal.SIGTERM in os.read(wakeup, 64):
                return
            reap()
        if listener.fileno() in ready:
            # A client that has gone again, or no memory for a process: one connection's end, not the machine's.
            with contextlib.suppress(OSError):
                connect(listener, command)


def connect(listener: socket.socket, command: list[str]) -> None:
    """Hands the next connection to a server of its own."""
    connection, _ = listener.accept()
    connection.setblocking(True)
    with connection:
        subprocess.Popen(
            command,
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=subprocess.DEVNULL,
        )


def wakeup_pipe() -> int:
    """A descriptor that becomes readable, with the signal's number, whenever a signal comes."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def main() -> None:
    """The guardian's whole life."""
    # Whoever plans reads this file for its clock, and has no use for what this loads.
    import argparse

    parser = argparse.ArgumentParser()
    for name in ("run", "owner", "deadline", "created", "node", "directory", "sshd"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    directory = Path(options.directory)
    os.umask(0o077)
    adopt_orphans()
    wakeup = wakeup_pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        # A connection that is reset between select and accept must not keep the deadline waiting.
        listener.setblocking(False)
        address = {"port": listener.getsockname()[1], "pid": os.getpid()}
        print(json.dumps(address), flush=True)
        config, log = str(directory / "sshd_config"), str(directory / "sshd.log")
        command = [options.sshd, "-i", "-f", config, "-E", log]
        try:
            serve(listener, command, float(options.deadline) - time.time(), wakeup)
        finally:
            end_all()


if __name__ == "__main__":
    main()
