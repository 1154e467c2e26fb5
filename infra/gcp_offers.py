"""What Compute Engine can offer for a Spec: each zone is a rung of its own, those of one region beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from dayfly.errors import SpecError
from dayfly.infra import catalog
from dayfly.infra.beside import SPOT_MARGIN
from dayfly.infra.catalog import MachineType
from dayfly.infra.gcp_place import region_of
from dayfly.infra.gcp_prices import Extras, Prices
from dayfly.infra.offers import Offer
from dayfly.infra.selection import Selection, Sold
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_seconds

if TYPE_CHECKING:
    from dayfly.infra.gcp_api import GcpApi

_GB = 1000**3
# Compute Engine takes a termination time that is at most so far away (docs "Limit the run time of a VM").
_MOST_RUNTIME_S = 120 * 24 * 3600.0
_MOST_NODES = 100
# What an image takes of the disk: Deep Learning VM images are of 50 GB, Ubuntu's of 10; and what is left where nobody says.
_IMAGE_GB = {True: 50, False: 10}
_ROOM_GB = 50
# Offline only, where a plan is all that can be made: the zones of us-central1 that have a family, of
# skypilot-catalog v8/gcp@006059e (a2, a3-highgpu) and of Google's page "GPU locations" (the others, recalled).
_OFFLINE_REGION = "us-central1"
_OFFLINE_ZONES = {
    "a2-highgpu": "abcf",
    "a2-ultragpu": "ac",
    "a3-highgpu": "abc",
    "a3-ultragpu": "b",
    "g2-standard": "abc",
    "n1-standard": "abcf",
}
# Machine types of the H100 with fewer than eight of them are sold as Spot, or through Flex-start, alone.
SPOT_ONLY = ("a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g")
# Spot prices change once a day at most (https://docs.cloud.google.com/compute/docs/instances/spot), and no machine can be asked for
# up to a price alone: `Scheduling` of google-cloud-compute has no field for one. What may be spent has to have room for that, as it
# has where a cloud keeps to a limit.
_UNCAPPED = f"{SPOT_MARGIN:g} times the spot price of now, which nothing caps"
_LIVE_WITH = "`gcloud auth application-default login` and export GOOGLE_CLOUD_PROJECT=PROJECT-ID"


class Hardware(NamedTuple):
    """How a machine of the catalog is asked for: "n1-standard-8+nvidia-tesla-t4" is a machine type and an accelerator.

    Attributes:
        machine_type: as Compute Engine has it.
        accelerator: its word for the kind of GPU that is added to it; "" where the machine type has its own, or none.
    """

    machine_type: str
    accelerator: str

    @classmethod
    def of(cls, instance_type: str) -> Hardware:
        """Of the name that the catalog has."""
        machine_type, _, accelerator = instance_type.partition("+")
        return cls(machine_type, accelerator)

    @property
    def family(self) -> str:
        """ "a2-highgpu" of "a2-highgpu-1g"."""
        return self.machine_type.rpartition("-")[0]


def disk_gb(spec: Spec, offer: Offer) -> int:
    """Size of the boot disk: what is asked for is to be free beside the image."""
    room = math.ceil(spec.disk_bytes / _GB) if spec.disk_bytes else _ROOM_GB
    return _IMAGE_GB[offer.gpus > 0] + room


def check(spec: Spec) -> None:
    """Refuses what Compute Engine would refuse, or could not be ended by its own clock.

    Raises:
        SpecError: names the field.
    """
    if spec.max_runtime_s > _MOST_RUNTIME_S:
        raise SpecError(
            f"max_runtime={human_seconds(spec.max_runtime_s)}: Compute Engine ends a machine by its own clock after"
            f" {human_seconds(_MOST_RUNTIME_S)} at most; write no more than that"
        )
    if spec.nodes > _MOST_NODES:
        raise SpecError(
            f'nodes={spec.nodes}: provider="gcp" makes at most {_MOST_NODES} machines a run'
        )


def offline(spec: Spec) -> list[Sold]:
    """What the package itself knows, in the zones of the region that its prices are of."""
    return [
        Sold(each, _offline_zones(spec, each)) for each in catalog.machine_types("gcp").values()
    ]


def live(spec: Spec, api: GcpApi, prices: Prices | None) -> list[Sold]:
    """What there is in which zone, by the API, at the prices of just now where they are known."""
    types = list(catalog.machine_types("gcp").values())
    if spec.instance_type and all(each.name != spec.instance_type for each in types):
        types = [*types, *_unlisted(spec.instance_type, api)]
    names = dict.fromkeys(Hardware.of(each.name).machine_type for each in types)
    rows = api.machine_types(list(names))
    zones: dict[str, list[str]] = {}
    for row in rows:
        zones.setdefault(row.name, []).append(row.zone)
    accelerators = {Hardware.of(each.name).accelerator for each in types} - {""}
    with_gpu = {name: set(api.accelerator_zones(name)) for name in accelerators}
    found = []
    for each in types:
        hardware = Hardware.of(each.name)
        places = [
            zone
            for zone in sorted(zones.get(hardware.machine_type, ()))
            if not hardware.accelerator or zone in with_gpu[hardware.accelerator]
        ]
        found += _by_region(spec, each, places, prices)
    return found


def ladder(spec: Spec, sold: Sequence[Sold], prices: Prices | None) -> list[Offer]:
    """The Offers that satisfy a Spec, cheapest first, disk and address included.

    Raises:
        SpecError: nothing can satisfy it, or a name is not known; says what would.
        NoCapacity: it could be satisfied, and no zone has such a machine.
    """
    selection = Selection(spec, sold, "gcp", "Compute Engine", _LIVE_WITH)
    if spec.region is not None:
        known = {zone for each in sold for zone in each.regions or ()}
        selection.check_region(spec.region, known | set(map(region_of, known)))
        selection = selection._replace(sold=[_only_in(each, spec.region) for each in sold])
    return [_with_extras(offer, spec, prices) for offer in selection.ladder()]


def _only_in(each: Sold, region: str) -> Sold:
    zones = tuple(z for z in each.regions or () if region in (z, region_of(z)))
    return Sold(each.type, zones)


def _unlisted(name: str, api: GcpApi) -> list[MachineType]:
    """A machine type that the catalog does not have; its price comes live, or not at all."""
    hardware = Hardware.of(name)
    if hardware.accelerator:
        return []
    return [
        MachineType(
            provider="gcp",
            name=row.name,
            cores=row.cores,
            memory_bytes=row.memory_bytes,
            usd_per_hour=None,
            gpus=0,
            gpu_model="",
            gpu_memory_gb=0.0,
            arch="",
            as_of="",
            source="",
        )
        for row in api.machine_types([hardware.machine_type])[:1]
    ]


def _offline_zones(spec: Spec, each: MachineType) -> tuple[str, ...]:
    """Of another region than the one of its prices all that is known is its name."""
    if spec.region and region_of(spec.region) != _OFFLINE_REGION:
        return (spec.region,)
    letters = _OFFLINE_ZONES.get(Hardware.of(each.name).family, "a")
    return tuple(f"{_OFFLINE_REGION}-{letter}" for letter in letters)


def _by_region(
    spec: Spec, each: MachineType, zones: Sequence[str], prices: Prices | None
) -> list[Sold]:
    """A machine type once for each region, since each has a price of its own."""
    regions: dict[str, list[str]] = {}
    for zone in zones:
        regions.setdefault(region_of(zone), []).append(zone)
    found = []
    for region, its_zones in regions.items():
        priced = _priced(spec, each, region, prices)
        if priced is not None:
            found.append(Sold(priced, tuple(its_zones)))
    return found


def _priced(
    spec: Spec, each: MachineType, region: str, prices: Prices | None
) -> MachineType | None:
    hardware = Hardware.of(each.name)
    if prices is not None:
        spot_only = hardware.machine_type in SPOT_ONLY
        on_demand = None if spot_only else prices.of(each, region, spot=False)
        spot = prices.of(each, region, spot=True)
        if on_demand is not None or spot is not None:
            return each._replace(
                usd_per_hour=on_demand,
                spot_usd_per_hour=spot,
                region=region,
                as_of=prices.as_of,
                source=prices.source,
            )
    if region == each.region:
        return each
    if spec.region and region_of(spec.region) == region:
        # It is asked for by name: better the price of another region, labelled so, than none.
        said = f"{each.source}; of {each.region}, other regions differ"
        return each._replace(region=region, source=said)
    return None


def _with_extras(offer: Offer, spec: Spec, prices: Prices | None) -> Offer:
    """Disk and public address cost as long as the machine is there; a Spot machine may cost more tomorrow than it does now."""
    size_gb = disk_gb(spec, offer)
    extras = prices.extras(region_of(offer.region)) if prices else Extras()
    more = extras.usd_per_hour(size_gb, spot=offer.spot)
    own = offer.usd_per_hour * (SPOT_MARGIN if offer.spot else 1.0)
    said = f"; {_UNCAPPED}" if offer.spot else ""
    source = f"{offer.source}{said} + {size_gb} GB disk and address"
    return replace(offer, usd_per_hour=round(own + more, 6), source=source)


def price_list(sold: Sequence[Sold]) -> list[Offer]:
    """All machines, once for each region, at their prices alone."""
    return [offer for each in sold for offer in each.type.offers()]
