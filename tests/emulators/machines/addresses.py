"""The ips that instances have in the API: of the ranges that are kept for documentation, so that nothing is there, or of
loopback, where their SSH servers really are, at port 22."""

from __future__ import annotations

import socket

SSH_PORT = 22
_NOWHERE = ("198.51.100", "203.0.113", "192.0.2")
_LOOPBACK = ("127.77.0", "127.77.1", "127.77.2")


class Addresses:
    """Each living instance has one of its own.

    Args:
        real: of loopback.
    """

    def __init__(self, *, real: bool = False) -> None:
        ranges = _LOOPBACK if real else _NOWHERE
        self._free = [f"{range_}.{tail}" for range_ in ranges for tail in range(2, 255)]

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> str:
        """The one that has been free for the longest time."""
        return self._free.pop(0)

    def give(self, ip: str) -> None:
        """It may be used again."""
        self._free.append(ip)


def check() -> None:
    """Finds out whether machines can have addresses of their own here, before an instance is sold.

    Raises:
        OSError: they cannot; says why and what to do.
    """
    host = f"{_LOOPBACK[0]}.1"
    try:
        socket.create_server((host, SSH_PORT)).close()
    except OSError as error:
        raise OSError(
            f"own_addresses: port {SSH_PORT} of {host} cannot be had ({error.strerror}). It needs Linux and root, and an SSH"
            " server of this computer that listens on all addresses is in its way: leave own_addresses out, and use"
            " DAYFLY_SSH_PORT_MAP"
        ) from None
