"""Compute Engine's prices of just now, from Google's price catalogue (Cloud Billing, service 6F81-5844-456A).

A machine is billed by its parts: cores, memory and GPUs, each with a price in each region, on demand and as Spot.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from dayfly.infra import gcp_account, whole_file
from dayfly.infra.beside import MONTH_H
from dayfly.infra.catalog import MachineType
from dayfly.infra.gcp_errors import asking
from dayfly.infra.offers import today

_SERVICE = "services/6F81-5844-456A"
_SOURCE = "Google Cloud Billing catalogue"
# Thirty thousand rows in pages of at most 5000, which take several seconds: once a day is often enough for list prices.
_KEPT_S = 24 * 3600.0
_FORMAT = 1
_TIMEOUT_S = 60.0
_GIB = 1 << 30
# What the catalogue calls things in `description`, before " running in REGION"; a Spot price has the words in front, or behind.
_CORE_OR_RAM = r"^(?:Spot Preemptible )?(?P<family>[A-Z][A-Za-z0-9]*)(?: Predefined| AMD)? Instance (?P<what>Core|Ram) running in "
_GPU = r"(?i)^Nvidia (?P<name>.+?) GPU (?:attached to Spot Preemptible VMs )?running in "
_DISK = r"^Balanced PD Capacity(?: in |$)"
_ADDRESS = r"^External IP Charge on a (?P<way>Standard|Spot Preemptible) VM"
# The catalogue's name of each kind of GPU, by model and memory of our own.
_GPU_NAMES = {
    ("T4", 16): "Tesla T4",
    ("L4", 24): "L4",
    ("A100", 40): "Tesla A100",
    ("A100", 80): "Tesla A100 80GB",
    ("H100", 80): "H100 80GB",
    ("H200", 141): "H200 141GB",
}
# By the family of a machine type; others are billed under their own name: "G2" of g2-standard-4.
_FAMILIES = {"a3-ultragpu": "A3Ultra", "a3-megagpu": "A3Plus"}


class Extras(NamedTuple):
    """What a machine costs beside itself; in us-central1, and much the same elsewhere.

    Attributes:
        disk_usd_gb_month: a balanced persistent disk (list price, recalled 2026).
        address_usd_h: a public address of a machine on demand (list price since 2024-02, recalled 2026).
        spot_address_usd_h: the same of a Spot machine.
    """

    disk_usd_gb_month: float = 0.10
    address_usd_h: float = 0.005
    spot_address_usd_h: float = 0.0025

    def usd_per_hour(self, disk_gb: int, *, spot: bool) -> float:
        """Of one machine with such a disk."""
        address = self.spot_address_usd_h if spot else self.address_usd_h
        return disk_gb * self.disk_usd_gb_month / MONTH_H + address


@dataclass(frozen=True)
class Prices:
    """Prices of parts.

    Attributes:
        parts: dollars by "what/region/way": "core:a2/us-central1/spot" an hour, "ram:a2/..." a GiB and hour,
            "gpu:L4/..." an hour, "disk/..." a GB and month, "address/..." an hour.
        as_of: date on which they were read, ISO 8601.
        source: where they come from.
    """

    parts: dict[str, float] = field(repr=False)
    as_of: str
    source: str = _SOURCE

    def of(self, each: MachineType, region: str, *, spot: bool) -> float | None:
        """Dollars an hour of a machine type; None where a part of it has no price there."""
        machine_type = each.name.partition("+")[0]
        family = _FAMILIES.get(machine_type.rpartition("-")[0], machine_type.partition("-")[0])
        core = self._part(f"core:{family.lower()}", region, spot)
        ram = self._part(f"ram:{family.lower()}", region, spot)
        if core is None or ram is None:
            return None
        total = core * each.cores + ram * each.memory_bytes / _GIB
        if each.gpus:
            name = _GPU_NAMES.get((each.gpu_model, int(each.gpu_memory_gb)), "")
            gpu = self._part(f"gpu:{name}", region, spot)
            if gpu is None:
                return None
            total += gpu * each.gpus
        return round(total, 6)

    def extras(self, region: str) -> Extras:
        """Of disk and address in a region, where the catalogue has them."""
        known = Extras()
        return Extras(
            self._part("disk", region, False) or known.disk_usd_gb_month,
            self._part("address", region, False) or known.address_usd_h,
            self._part("address", region, True) or known.spot_address_usd_h,
        )

    def _part(self, what: str, region: str, spot: bool) -> float | None:
        way = "spot" if spot else "ondemand"
        for place in (region, "global"):
            if (price := self.parts.get(f"{what}/{place}/{way}")) is not None:
                return price
        return None


def current(url: str, credentials: Any, now: float | None = None) -> Prices:
    """Read today, or read now; what was read is kept in the user's cache folder.

    Raises:
        GcpError: they cannot be had.
    """
    file = platformdirs.user_cache_path("dayfly") / "gcp-prices.json"
    is_own = url == gcp_account.URL
    kept = _kept(file, time.time() if now is None else now) if is_own else None
    if kept is not None:
        return kept
    prices = read(None if is_own else url, credentials)
    if is_own:
        _keep(file, prices)
    return prices


def read(url: str | None, credentials: Any) -> Prices:
    """From the catalogue itself.

    Args:
        url: of a server in its place; None for Google's own.
        credentials: as Google's libraries take them; anybody may read it whose project has the API switched on.

    Raises:
        GcpError: they cannot be had.
    """
    with asking("reading the price catalogue"):
        from google.cloud import billing_v1

        options = {} if url is None else {"api_endpoint": url}
        client = billing_v1.CloudCatalogClient(
            credentials=credentials, transport="rest", client_options=options
        )
        request = billing_v1.ListSkusRequest(parent=_SERVICE, page_size=5000)
        parts = dict(_parts(client.list_skus(request, timeout=_TIMEOUT_S)))
    return Prices(parts, today())


def _parts(skus: Iterable[Any]) -> Iterator[tuple[str, float]]:
    for sku in skus:
        way = {"OnDemand": "ondemand", "Preemptible": "spot"}.get(sku.category.usage_type)
        what = _what(sku.description)
        price = _price(sku) if way and what else None
        if price is not None:
            for region in sku.service_regions:
                yield f"{what}/{region}/{way}", price


def _what(description: str) -> str:
    """The part that a row is about, "" where it is none that a machine of ours has."""
    if found := re.match(_CORE_OR_RAM, description):
        return f"{found['what'].lower()}:{found['family'].lower()}"
    if found := re.match(_GPU, description):
        return f"gpu:{found['name']}"
    if re.match(_DISK, description):
        return "disk"
    return "address" if re.match(_ADDRESS, description) else ""


def _price(sku: Any) -> float | None:
    """Dollars for its unit at the highest tier, which is what is left when a free one is used up."""
    if not sku.pricing_info:
        return None
    tiers = sku.pricing_info[0].pricing_expression.tiered_rates
    if not tiers:
        return None
    price = tiers[-1].unit_price
    return float(price.units) + float(price.nanos) / 1e9


def _kept(file: Path, now: float) -> Prices | None:
    try:
        held = json.loads(file.read_text())
        if held.pop("format") != _FORMAT or not 0 <= now - held.pop("read_at") < _KEPT_S:
            return None
        return Prices(**held)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(file: Path, prices: Prices) -> None:
    text = json.dumps({"format": _FORMAT, "read_at": time.time(), **asdict(prices)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(file, text)
    except OSError:
        # They are read again the next time.
        return
