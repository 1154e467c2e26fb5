"""The ips that instances have in the API: of the ranges that are kept for documentation, so that nothing is there."""

from __future__ import annotations

_RANGES = ("198.51.100", "203.0.113", "192.0.2")


class Addresses:
    """Each living instance has one of its own."""

    def __init__(self) -> None:
        self._free = [f"{range_}.{tail}" for range_ in _RANGES for tail in range(2, 255)]

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> str:
        """The one that has been free for the longest time."""
        return self._free.pop(0)

    def give(self, ip: str) -> None:
        """It may be used again."""
        self._free.append(ip)
