"""Who listens where, by the kernel's own tables: one process, or all of the network that it is in. Linux only."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"


def of_network(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which anybody listens in the network of a process."""
    return {(address, port) for address, port, _ in _rows(pid)}


def of_process(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which a process listens; none where it has ended."""
    own: set[str] = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(descriptor.readlink()))
    return {(address, port) for address, port, inode in _rows(pid) if f"socket:[{inode}]" in own}


def _rows(pid: int) -> Iterator[tuple[str, int, str]]:
    """Address, port and inode of each socket that listens."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            place, _, port = fields[1].partition(":")
            if fields[3] == _LISTEN:
                words = [int(place[start : start + 8], 16) for start in range(0, len(place), 8)]
                packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
                yield str(ipaddress.ip_address(packed)), int(port, 16), fields[9]
