"""The emulator's time: seconds of the API's rules, which pass `scale` times as fast as those on the wall."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Counts emulated seconds from its making; money and the log go by the wall's."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._started = time.monotonic()
        self._ahead = 0.0

    def now(self) -> float:
        """Emulated seconds since the start."""
        return (time.monotonic() - self._started) * self.scale + self._ahead

    def advance(self, emulated_s: float) -> None:
        """So many emulated seconds have passed at once."""
        self._ahead += emulated_s

    def real(self, emulated_s: float) -> float:
        """How long that is on the wall."""
        return emulated_s / self.scale

    @staticmethod
    def wall() -> float:
        """The time of day, in seconds since 1970."""
        return time.time()


def iso(moment: float) -> str:
    """A time of day as the API writes it."""
    return datetime.fromtimestamp(moment, UTC).isoformat()
