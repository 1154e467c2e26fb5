"""The dollars of the emulated Azure: each machine from when it runs to when it is gone, by the catalog's prices, to the second."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.emulators.azure.options import Options
from tests.emulators.azure.things import Thing


@dataclass(frozen=True)
class Bill:
    """Of one machine."""

    id: str
    size: str
    spot: bool
    seconds: float


def bill(vm: Thing) -> Bill:
    """What a machine has come to by now."""
    assert vm.since is not None
    size = str(vm.properties["hardwareProfile"]["vmSize"])
    return Bill(vm.id.text, size, vm.is_spot, time.time() - vm.since)


def usd(bills: Iterable[Bill], options: Options) -> float:
    """All of them together."""
    return sum(
        (options.sizes[each.size].price(each.spot) or 0.0) * each.seconds / 3600 for each in bills
    )
