"""The dollars of the emulated Azure: each machine with its disk and its address, from when it runs to when it is gone, to the second.

By Dayfly's own prices of East US, whatever the region.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from dayfly.infra import azure_beside
from tests.emulators.azure.options import Options
from tests.emulators.azure.things import Thing


@dataclass(frozen=True)
class Bill:
    """Of one machine.

    Attributes:
        begun: unix time from which it is billed.
    """

    id: str
    size: str
    spot: bool
    disk_gb: int
    begun: float
    seconds: float


def bill(vm: Thing) -> Bill:
    """What a machine has come to by now."""
    assert vm.since is not None
    size = str(vm.properties["hardwareProfile"]["vmSize"])
    disk_gb = int(vm.properties["storageProfile"]["osDisk"]["diskSizeGB"])
    return Bill(vm.id.text, size, vm.is_spot, disk_gb, vm.since, time.time() - vm.since)


def usd(bills: Iterable[Bill], options: Options) -> float:
    """All of them together."""
    return sum(_usd_per_hour(each, options) * each.seconds / 3600 for each in bills)


def _usd_per_hour(bill: Bill, options: Options) -> float:
    own = options.sizes[bill.size].price(bill.spot) or 0.0
    return own + azure_beside.usd_per_hour(bill.disk_gb)
