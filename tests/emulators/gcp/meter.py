"""The dollar meter: what each instance costs from when it runs until it has stopped, by the rules of Compute Engine and not of Dayfly.

By the second, for a minute at least: "charged a minimum of 1 minute [...] After 1 minute, instances are charged in 1-second increments"
(Google's course "Essential Google Cloud Infrastructure: Foundation", chapter "Compute pricing"). Disk and address, which are a
twentieth of it, are taken for as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.emulators.gcp import stock

INCREMENT_S, LEAST_S = 1.0, 60.0


@dataclass(frozen=True)
class Bill:
    """What one instance costs.

    Attributes:
        instance: its path.
        usd_per_hour: of all of it.
        running: when it began to run, in seconds since 1970.
        stopped: when it had stopped, None while it still costs money.
        seconds: from one to the other, or until now.
    """

    instance: str
    usd_per_hour: float
    running: float
    stopped: float | None
    seconds: float

    @property
    def billed_s(self) -> float:
        """Seconds that are billed."""
        return max(LEAST_S, math.ceil(self.seconds / INCREMENT_S) * INCREMENT_S)

    @property
    def usd(self) -> float:
        """The bill."""
        return self.usd_per_hour * self.billed_s / 3600


def bills(events: Iterable[Mapping[str, Any]], now: float) -> list[Bill]:
    """Reads the bills off the log, so that the meter and the log cannot disagree.

    Args:
        events: of the ground truth.
        now: until when what still runs is billed.
    """
    began: dict[str, Mapping[str, Any]] = {}
    ended: dict[str, float] = {}
    for event in events:
        if event["event"] == "running":
            began[event["instance"]] = event
        elif event["event"] == "stopped":
            ended.setdefault(event["instance"], event["at"])
    return [_bill(event, ended.get(path), now) for path, event in began.items()]


def _bill(event: Mapping[str, Any], ended: float | None, now: float) -> Bill:
    rate = stock.usd_per_hour(
        event["type"],
        event["zone"],
        event["accelerator"],
        event["count"],
        event["disk_gb"],
        spot=event["spot"],
    )
    seconds = max(0.0, (now if ended is None else ended) - event["at"])
    return Bill(event["instance"], rate, event["at"], ended, seconds)
