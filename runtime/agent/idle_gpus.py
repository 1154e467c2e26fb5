"""GPUs that are rented and not used."""

from __future__ import annotations

from .gpu_watch import GpuWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class IdleGpus:
    """Tells when a GPU has stayed under a floor for a whole window: not one reading in all that time reached it.

    What is not known is not idle: where the readings stop, or the machine slept, the window begins anew.
    """

    def __init__(self, floor_percent: float, window_s: float) -> None:
        self._floor, self._window_s = floor_percent, window_s
        self._since: dict[int, tuple[float, float]] = {}  # when it began, and the most since
        self._at = 0.0

    def every_s(self, usual_s: float) -> float:
        """Give the seconds between two readings: four of them lie in a window."""
        return min(usual_s, self._window_s / 4) if self._floor else usual_s

    def idle(self, now: float, gpus: list[list[Any]]) -> str:
        """Take a reading, and give in words which GPU idles, "" where none does."""
        if not self._floor:
            return ""
        if now - self._at > max(GpuWatch.PATIENCE_S, self._window_s / 2):
            self._since.clear()
        self._at = now
        known = {number: gpu[0] for number, gpu in enumerate(gpus) if gpu[0] is not None}
        low = {number: share for number, share in known.items() if share < self._floor}
        self._since = {
            number: (since, max(most, low[number]))
            for number, (since, most) in self._since.items()
            if number in low
        }
        for number, share in low.items():
            since, most = self._since.setdefault(number, (now, share))
            if now - since >= self._window_s:
                return (
                    f"GPU {number} of {len(gpus)} did not reach {self._floor:g} % in {self._window_s / 60:g} min"
                    f" (its best reading was {most:g} %)"
                )
        return ""
