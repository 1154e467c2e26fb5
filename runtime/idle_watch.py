"""IdleWatch: sees that a GPU which is paid for is little used, and says so once a stretch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dayfly.infra.units import human_seconds
from dayfly.runtime import wording
from dayfly.runtime.samples import Sample

PERCENT, WINDOW_S = 80.0, 600.0


@dataclass(frozen=True)
class Idle:
    """One GPU that does little.

    Attributes:
        gpu: its number.
        percent: its mean use over the window.
        text: for people, with the price.
    """

    gpu: int
    percent: float
    text: str


@dataclass
class _Stretch:
    """The last readings of one GPU: seconds and percent."""

    readings: deque[tuple[float, float]] = field(default_factory=deque)
    told: bool = False

    def take(self, seconds: float, percent: float) -> float | None:
        """Takes a reading and gives the mean over the window; None until that is full."""
        self.readings.append((seconds, percent))
        covered = sum(span for span, _ in self.readings)
        while covered - self.readings[0][0] >= WINDOW_S:
            covered -= self.readings.popleft()[0]
        if covered < WINDOW_S:
            return None
        return sum(span * share for span, share in self.readings) / covered


class IdleWatch:
    """Warns where the mean use of a GPU over ten minutes is under 80 %; again only after it has been over that.

    Args:
        usd_per_hour: of the machine.
        warn: takes each warning.
    """

    def __init__(self, usd_per_hour: float, warn: Callable[[Idle], None]) -> None:
        self._usd_per_hour, self._warn = usd_per_hour, warn
        self._stretches: dict[int, _Stretch] = {}

    def take(self, sample: Sample, new: bool) -> None:
        """The next sample; one that is not new has been warned of when it was."""
        for number, gpu in enumerate(sample.gpus):
            if gpu.percent is None:
                continue
            stretch = self._stretches.setdefault(number, _Stretch())
            mean = stretch.take(sample.seconds, gpu.percent)
            if mean is None:
                continue
            if mean >= PERCENT and stretch.told:
                self._stretches[number] = _Stretch()
            elif mean < PERCENT and not stretch.told:
                stretch.told = True
                if new:
                    self._warn(self._idle(number, mean, len(sample.gpus)))

    def _idle(self, number: int, mean: float, count: int) -> Idle:
        price = wording.dollars(self._usd_per_hour / count)
        which = f"GPU {number} of {count}" if count > 1 else "the GPU"
        return Idle(
            number,
            round(mean, 1),
            f"{which} was in use for {mean:.0f} % of the last {human_seconds(WINDOW_S)}, and costs {price}/h;"
            " min_gpu_utilization= would end a run that idles",
        )
