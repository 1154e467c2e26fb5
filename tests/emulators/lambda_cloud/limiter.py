"""The account's rate limits: so many emulated seconds between two requests, and between two launches."""

from __future__ import annotations

import math

from tests.emulators.lambda_cloud.clock import Clock


class Limiter:
    """Admits a request when its interval has passed since the last one that was admitted.

    A refused request does not count. One that comes a little early is let in and its successor waits for
    longer, so that a client that keeps the pace is not refused for the jitter of its network.

    Attributes:
        refused: how many requests had to be turned away.
    """

    def __init__(self, clock: Clock, interval_s: float, tolerance: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._tolerance_s = interval_s * tolerance
        self._due = -math.inf
        self.refused = 0

    def wait_s(self) -> float:
        """Emulated seconds until a request is admitted; 0 where one is now."""
        early = self._due - self._clock.now()
        return 0.0 if early <= self._tolerance_s else early

    def take(self) -> None:
        """Counts a request as admitted."""
        self._due = max(self._due, self._clock.now()) + self._interval_s
