"""A process, told apart from every other there ever was: by pid, start and computer. Standard library only."""

from __future__ import annotations

import calendar
import contextlib
import functools
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
# Where a process has to be asked for by a command, one that was seen a moment ago is only asked whether it is there.
_TRUST_S = 30.0
_seen: dict[tuple[int, float], float] = {}


def myself() -> dict[str, Any]:
    """This process, so that another can tell whether it still lives."""
    return described(os.getpid())


def described(pid: int) -> dict[str, Any]:
    """A process by pid, start and computer, since a pid alone is used again."""
    ticks, started = _start_of(pid) or (None, 0.0)
    return {
        "pid": pid,
        "started": started,
        "host": socket.gethostname(),
        "place": place(),
        "computer": computer(),
        "ticks": ticks,
    }


def is_alive(client: Mapping[str, Any]) -> bool:
    """Whether the process that `myself` described lives on this computer."""
    if not is_here(client):
        return False
    try:
        pid, started, ticks = int(client["pid"]), float(client["started"]), client.get("ticks")
    except (KeyError, ValueError, TypeError):
        return False
    if ticks is None and time.monotonic() - _seen.get((pid, started), -_TRUST_S) < _TRUST_S:
        return _exists(pid)
    found = _start_of(pid)
    if found is None:
        return False
    alive = found[0] == ticks if ticks is not None else abs(found[1] - started) < 1
    if alive and found[0] is None:
        _seen[pid, started] = time.monotonic()
    return alive


def is_here(client: Mapping[str, Any]) -> bool:
    """Whether a process was described on this very computer; its name may have changed since, its boot has not."""
    if client.get("place") and place():
        return bool(client["place"] == place())
    return bool(client.get("host") == socket.gethostname())


def is_same_computer(client: Mapping[str, Any]) -> bool:
    """Whether a process was described on this computer, in this boot or an earlier one: then it can be judged here.

    Neither a name is enough, which changes with the network, nor a machine id, which the nodes of a cluster may have
    in common.
    """
    if is_here(client):
        return True
    then, here = client.get("computer") or {}, computer()
    same_name = client.get("host") == socket.gethostname()
    if not then.get("id") or not here["id"]:
        return bool(same_name)
    return then["id"] == here["id"] and (same_name or bool(set(then["macs"]) & set(here["macs"])))


@functools.cache
def computer() -> dict[str, Any]:
    """What outlasts a boot: the system's id of itself, and the addresses of its real network cards."""
    return {"id": _machine_id(), "macs": _hardware_addresses()}


def _machine_id() -> str:
    for file in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        with contextlib.suppress(OSError):
            if text := file.read_text().strip():
                return text
    with contextlib.suppress(OSError):
        command = ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found = [line.split('"')[-2] for line in said.splitlines() if "IOPlatformUUID" in line]
        return found[0] if found else ""
    return ""


def _hardware_addresses() -> list[str]:
    found = []
    for card in Path("/sys/class/net").glob("*/device"):
        with contextlib.suppress(OSError):
            found.append((card.parent / "address").read_text().strip())
    return sorted(found)


@functools.cache
def place() -> str:
    """This boot of this computer and its table of processes, "" where the system has no word for it."""
    with contextlib.suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        # Containers share a boot and count their processes each for itself.
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    return ""


def _start_of(pid: int) -> tuple[int | None, float] | None:
    """When a living process has started: in clock ticks since the boot, which no one sets, and as unix time."""
    if (_PROC / "self/stat").exists():
        return _start_by_proc(pid)
    started = _start_by_ps(pid)
    return None if started is None else (None, started)


def _start_by_proc(pid: int) -> tuple[int, float] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command may hold spaces and brackets, so fields are counted from its last bracket.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    ticks = int(fields[19])
    return ticks, _boot_time() + ticks / os.sysconf("SC_CLK_TCK")


def _boot_time() -> float:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _start_by_ps(pid: int) -> float | None:
    """Where there is no /proc, as on macOS."""
    done = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
    )
    state, _, started = done.stdout.strip().partition(" ")
    if not started or state.startswith("Z"):
        return None
    return float(calendar.timegm(time.strptime(started.strip(), "%a %b %d %H:%M:%S %Y")))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
