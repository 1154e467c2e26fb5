"""Descriptors that go from one process to another over a unix socket."""

from __future__ import annotations

import array
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = socket.CMSG_SPACE(4 * array.array("i").itemsize)


def send_with(channel: Any, data: bytes, descriptor: int) -> int:
    """Send data, and a copy of a descriptor with its first byte; gives how many bytes were taken."""
    passed = array.array("i", [descriptor])
    sent: int = channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
    return sent


def receive_with(channel: Any, size: int) -> tuple[bytes, list[int]]:
    """Receive data, at most `size` bytes, and the descriptors that came with it, which belong to the caller."""
    data, extra, _, _ = channel.recvmsg(size, _SPACE)
    found = array.array("i")
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    return data, list(found)
