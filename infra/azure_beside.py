"""What is billed at Azure beside a machine for as long as it is there, its disk and its public address; and how much at most for it."""

from __future__ import annotations

import math
from dataclasses import replace

from dayfly.infra import azure_images, beside
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec

# azure.microsoft.com/pricing/details/managed-disks, Standard SSD (LRS) in East US: GiB at most, dollars a month. From memory in
# 2026-11 and not looked up again, as those of other regions are not; what is written to the disk costs $0.002 for 10 000 times more.
_TIERS = (
    *((32, 2.4), (64, 4.8), (128, 9.6), (256, 19.2), (512, 38.4)),
    *((1024, 76.8), (2048, 153.6), (4096, 307.2)),
)
# azure.microsoft.com/pricing/details/ip-addresses: Standard, static, IPv4.
_ADDRESS_USD_PER_HOUR = 0.005


def most_for_machine(spec: Spec, offer: Offer) -> float:
    """Dollars an hour above which Azure takes a spot machine back, or makes none: what the offer's rate has of it itself.

    Azure takes five decimals: learn.microsoft.com/azure/virtual-machines/spot-vms.
    """
    own = offer.usd_per_hour - usd_per_hour(azure_images.disk_gb(spec, offer))
    return math.ceil(round(own * 1e5, 3)) / 1e5


def usd_per_hour(disk_gb: int) -> float:
    """Of one machine with so large a disk."""
    tier = next(usd for most_gb, usd in _TIERS if disk_gb <= most_gb)
    return tier / beside.MONTH_H + _ADDRESS_USD_PER_HOUR


def added(spec: Spec, offer: Offer) -> Offer:
    """With that in its rate, and said so; that of a spot machine is what it costs at most."""
    disk_gb = azure_images.disk_gb(spec, offer)
    more = usd_per_hour(disk_gb)
    limit = f"; {beside.AT_MOST}" if offer.spot else ""
    own = offer.usd_per_hour * (beside.SPOT_MARGIN if offer.spot else 1.0)
    return replace(
        offer,
        usd_per_hour=round(own + more, 6),
        source=f"{offer.source}{limit}; {beside.said(more, disk_gb)}",
    )
