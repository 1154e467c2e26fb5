"""This machine's loopback: which it is, who listens there, and the SSH connection that leads from there to other machines."""

from __future__ import annotations

import os
import sys
import time

from .processes import process_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# A connection that is told to end may take this long; it is ended then.
_END_S = 2.0
# The ports of a connection that has ended are free a moment later.
_FREE_S = 5.0
_LISTENING = "0A"


def name() -> str:
    """Tell one loopback from every other: machines that give the same name here share theirs; "" where the system has no word."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            # Containers share a boot, and have networks of their own.
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/net')}"
    except OSError:
        return _boot_of_macos() if sys.platform == "darwin" else ""


def _boot_of_macos() -> str:
    from .asked import Asked

    asked = Asked(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]).wait(5.0)
    return asked.words.strip() if asked.code == 0 else ""


def taken(ports: Iterable[int]) -> list[int]:
    """Give those on which nobody could listen now."""
    import socket

    found = []
    for port in ports:
        with socket.socket() as probe:
            # As the SSH server and Dask do.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.append(port)
    return found


def open_to_others(ports: Iterable[int]) -> list[int]:
    """Give those that somebody listens on where other machines reach them; none where the system does not tell."""
    wanted = set(ports)
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        for row in rows:
            address, _, port = row[1].rpartition(":")
            if row[3] == _LISTENING and int(port, 16) in wanted and not _is_loopback(address):
                found.add(int(port, 16))
    return sorted(found)


def _is_loopback(address: str) -> bool:
    """Tell it from the kernel's spelling: words of four bytes, each in the order of this machine's own numbers."""
    from ipaddress import IPv6Address, ip_address

    words = [int(address[place : place + 8], 16) for place in range(0, len(address), 8)]
    found = ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


# -- the connection of this process


def own_connection() -> list[int]:
    """Give the process of the SSH server that holds this process's connection, and when that began; nothing where it is not told."""
    table, pid = process_table(), os.getpid()
    while pid in table and pid > 1:
        pid = table[pid][0]
        found = _sshd(pid)
        if found:
            return [pid, found]
    return []


def _sshd(pid: int) -> int:
    """Give the start of a process of an SSH server, in ticks since the boot; 0 for any other."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            command, _, rest = file.read().partition("(")[2].rpartition(")")
    except OSError:
        return 0
    fields = rest.split()
    lives = bool(fields) and fields[0] not in "ZX"
    return int(fields[19]) if lives and command.startswith("sshd") else 0


def end_former(former: list[int]) -> None:
    """End a connection that was used before this one.

    Its client has gone, and its server may not know for hours: until then it would go on listening, and hold what was
    connected through it.
    """
    import signal

    if not former or former == own_connection():
        return
    pid, began = former
    until = time.monotonic() + _END_S
    number = signal.SIGTERM
    while _sshd(pid) == began:
        if time.monotonic() > until:
            number = signal.SIGKILL
        try:
            os.kill(pid, number)
        except OSError:
            return  # Gone, or another user's: then the ports tell.
        time.sleep(0.01)
        if time.monotonic() > until + _END_S:
            return


def await_free(ports: Iterable[int]) -> list[int]:
    """Give those that are taken, once none is or some have been for too long."""
    until = time.monotonic() + _FREE_S
    left = taken(ports)
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left = taken(left)
    return left
