"""The dollar meter: what each instance costs from its accepted launch until it is terminated or preempted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ENDED = ("terminated", "preempted")


@dataclass(frozen=True)
class Bill:
    """What one instance costs.

    Attributes:
        launched: when the launch was accepted, in seconds since 1970.
        ended: when it was terminated or preempted; None while it still costs money.
        seconds: from one to the other, or until now.
        billed_s: the same, rounded up to the billing increment.
    """

    instance: str
    type: str
    region: str
    name: str
    tags: dict[str, str]
    cents_per_hour: int
    launched: float
    ended: float | None
    seconds: float
    billed_s: float

    @property
    def dollars(self) -> float:
        """The bill."""
        return self.billed_s * self.cents_per_hour / 3600 / 100

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"dollars": self.dollars}


def bills(events: Iterable[Mapping[str, Any]], until: float, increment_s: float) -> list[Bill]:
    """Reads the bills off a log, so that the meter and the log cannot disagree.

    Args:
        events: of the ground-truth log.
        until: when to take what still runs as ended.
        increment_s: what is rounded up to.
    """
    launches: dict[str, Mapping[str, Any]] = {}
    ends: dict[str, float] = {}
    for event in events:
        if event["event"] == "launch_accepted":
            launches[event["instance"]] = event
        elif event["event"] == "status" and event["now"] in ENDED:
            ends.setdefault(event["instance"], event["at"])
    return [bill(launch, ends.get(id), until, increment_s) for id, launch in launches.items()]


def bill(launch: Mapping[str, Any], ended: float | None, until: float, increment_s: float) -> Bill:
    """One bill.

    Args:
        launch: the event of the accepted launch.
        ended: when it was terminated or preempted, None where it still costs money.
        until: when to take it as ended then.
        increment_s: what is rounded up to.
    """
    seconds = max(0.0, (until if ended is None else ended) - launch["at"])
    return Bill(
        instance=launch["instance"],
        type=launch["type"],
        region=launch["region"],
        name=launch["name"],
        tags=dict(launch["tags"]),
        cents_per_hour=launch["cents_per_hour"],
        launched=launch["at"],
        ended=ended,
        seconds=seconds,
        billed_s=max(1, math.ceil(seconds / increment_s)) * increment_s,
    )


def total(made: Iterable[Bill]) -> float:
    """Dollars of all of them."""
    return math.fsum(each.dollars for each in made)
