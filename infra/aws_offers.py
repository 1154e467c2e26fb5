"""What AWS can offer for a Spec: from the catalog, and with credentials at the prices of just now, in every region or zone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dayfly.errors import NoCapacity, SpecError
from dayfly.infra import aws_image, aws_network, aws_prices, aws_session, beside, catalog
from dayfly.infra.aws_errors import AwsError, mapped
from dayfly.infra.aws_ids import zone_of
from dayfly.infra.aws_inventory import REGIONS_VARIABLE, regions
from dayfly.infra.catalog import MachineType
from dayfly.infra.gpu_request import normal_model
from dayfly.infra.offers import Offer, today
from dayfly.infra.selection import Selection, Sold
from dayfly.infra.spec import Spec

_NAME, _CALLED = "aws", "AWS"
_LIVE_WITH = "set up AWS credentials (aws configure)"


def ladder(spec: Spec) -> list[Offer]:
    """The Offers that satisfy a Spec, of the preferred kind first, of each kind the cheapest first.

    With a region that is named its zones are the rungs, else regions; EC2 itself finds a zone there. Root volume and public
    address are part of each price.

    Raises:
        SpecError: nothing can satisfy it, or a name is not known; says what would.
        NoCapacity: it could be satisfied, and there is none where it is asked for.
        AwsError: credentials are there, and AWS cannot be asked where it has to be.
    """
    if not aws_session.has_credentials():
        return from_catalog(spec)
    _check(spec)
    known, types = regions(), _candidates(spec)
    if spec.region is None:
        return _select(spec, _live(spec, types, _by_preference(known), {}), None)
    region, zone = _place(spec.region, known)
    zones = {
        region: (zone,) if zone else tuple(aws_network.zones(region, [each.name for each in types]))
    }
    return _select(spec, _live(spec, types, [region], zones), None)


def from_catalog(spec: Spec) -> list[Offer]:
    """As `ladder`, from what the package itself knows.

    Raises:
        SpecError: nothing can satisfy it, or a name is not known; says what would.
    """
    _check(spec)
    _check_spot(spec)
    return _select(spec, _from_catalog(spec), spec.region)


def price_list() -> list[Offer]:
    """All of the catalog's types as they are sold in the region that is set up here.

    Raises:
        AwsError: AWS cannot be asked.
    """
    region, types = aws_session.home_region(), list(catalog.machine_types(_NAME).values())
    names = [each.name for each in types]
    prices, spot = aws_prices.on_demand(names, region), aws_prices.spot(names, [region])
    sold = [_at(each, region, usd) for each in types if (usd := prices.get((each.name, region)))]
    sold += [
        _spot(each, zone, spot[name, zone])
        for each in types
        for name, zone in spot
        if name == each.name
    ]
    return [
        offer
        for each in sold
        for place in each.regions or ()
        for offer in [each.type.offer(place, spot=each.type.usd_per_hour is None)]
    ]


def _check(spec: Spec) -> None:
    if spec.region is not None and zone_of(spec.region) is None:
        raise SpecError(
            f"region={spec.region!r} is no region of AWS's; write one, us-east-1, or a zone of it, us-east-1b"
        )
    most_gb = aws_image.most_disk_gb()
    if spec.disk_bytes > most_gb * 1e9:
        raise SpecError(
            f"disk={spec.disk_bytes / 1e9:.0f}GB is more than a volume of AWS's holds beside the image; ask for {most_gb}GB"
            " at most"
        )


def _place(text: str, known: Sequence[str]) -> tuple[str, str]:
    """Region and zone of what the Spec names, which is one of AWS's forms.

    Raises:
        SpecError: the account cannot use that region.
    """
    place = zone_of(text)
    assert place is not None, text
    if place[0] not in known:
        raise SpecError(
            f"region={text!r} is in none of the regions that the account has enabled, and {REGIONS_VARIABLE} allows:"
            f" {', '.join(known)}"
        )
    return place


def _check_spot(spec: Spec) -> None:
    """The catalog knows hardly any spot price: without AWS's own what fits best would look as if it were not sold."""
    if spec.spot is not True:
        return
    on_demand = _select(replace(spec, spot=False), _from_catalog(spec), spec.region)
    known = catalog.machine_types(_NAME)
    names = list(dict.fromkeys(offer.instance_type for offer in on_demand))
    if all(known[name].spot_usd_per_hour is None for name in names):
        raise SpecError(
            f"spot={spec.spot}: the spot prices of {', '.join(names)} are only known live; {_LIVE_WITH}"
        )


def _select(spec: Spec, sold: Sequence[Sold], region: str | None) -> list[Offer]:
    priced = [Sold(_with_extras(spec, each.type), each.regions) for each in sold]
    found = Selection(spec, priced, _NAME, _CALLED, _LIVE_WITH).ladder(region)
    return [
        replace(offer, source=f"{offer.source}; {beside.AT_MOST}") if offer.spot else offer
        for offer in found
    ]


def _with_extras(spec: Spec, kind: MachineType) -> MachineType:
    """With the price of what is billed beside it; of a spot machine that which is paid at most."""
    disk_gb, spot = aws_image.disk_gb(spec, kind.gpus), kind.spot_usd_per_hour
    more = aws_prices.beside_usd_per_hour(disk_gb)

    def whole(usd: float | None) -> float | None:
        return None if usd is None else round(usd + more, 6)

    return kind._replace(
        usd_per_hour=whole(kind.usd_per_hour),
        spot_usd_per_hour=None if spot is None else whole(aws_prices.most_usd_per_hour(spot)),
        source=f"{kind.source}; {beside.said(more, disk_gb)}",
    )


def _from_catalog(spec: Spec, why: str = "") -> list[Sold]:
    """The package's own prices; where they are of another region than is asked for that is said."""
    place = zone_of(spec.region) if spec.region else None

    def known(kind: MachineType) -> MachineType:
        notes = [kind.source]
        if place is not None and place[0] != kind.region:
            notes.append(f"price of {kind.region}")
        return kind._replace(source="; ".join([*notes, *([why] if why else [])]))

    return [Sold(known(each), None) for each in catalog.machine_types(_NAME).values()]


def _candidates(spec: Spec) -> list[MachineType]:
    """The types whose prices have to be asked for, by the catalog's; one that it does not have is asked for by name."""
    known = catalog.machine_types(_NAME)
    if spec.instance_type is not None and spec.instance_type not in known:
        return [_described(spec)]
    # Which are good enough does not depend on how they are bought, and the catalog knows few spot prices.
    found = Selection(
        replace(spec, spot=False, region=None),
        list(_from_catalog(spec)),
        _NAME,
        _CALLED,
        _LIVE_WITH,
    ).ladder()
    return [known[name] for name in dict.fromkeys(offer.instance_type for offer in found)]


def _described(spec: Spec) -> MachineType:
    """A type as EC2 itself describes it.

    Raises:
        SpecError: it knows none of that name.
    """
    name = str(spec.instance_type)
    place = zone_of(spec.region) if spec.region else None
    region = place[0] if place else aws_session.home_region()
    try:
        with mapped(f"looking at {name} in {region}"):
            ec2 = aws_session.client("ec2", region)
            (row,) = ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    except AwsError as error:
        if error.code != "InvalidInstanceType":
            raise
        # The nearest names are those of the catalog.
        Selection(spec, _from_catalog(spec), _NAME, _CALLED, _LIVE_WITH).ladder()
        raise SpecError(f"instance_type={name!r}: {error}") from error
    gpus = row.get("GpuInfo", {}).get("Gpus", [])
    return MachineType(
        provider=_NAME,
        name=name,
        cores=row["VCpuInfo"]["DefaultVCpus"],
        memory_bytes=row["MemoryInfo"]["SizeInMiB"] << 20,
        usd_per_hour=None,
        gpus=sum(each["Count"] for each in gpus),
        gpu_model=normal_model(gpus[0]["Name"]) if gpus else "",
        gpu_memory_gb=round(gpus[0]["MemoryInfo"]["SizeInMiB"] / 1024) if gpus else 0.0,
        arch=row["ProcessorInfo"]["SupportedArchitectures"][-1],
        as_of="",
        source="",
    )


def _live(
    spec: Spec,
    types: Sequence[MachineType],
    where: Sequence[str],
    zones: Mapping[str, Sequence[str]],
) -> list[Sold]:
    """Each type in each place at its price of now; where the list of prices cannot be had, at the catalog's, which says so."""
    names = [each.name for each in types]
    sold: list[Sold] = []
    if spec.spot:
        prices = aws_prices.spot(names, where)
        allowed = {zone for named in zones.values() for zone in named}
        sold += [
            _spot(kind, zone, usd)
            for kind in types
            for (name, zone), usd in prices.items()
            if name == kind.name and (not allowed or zone in allowed)
        ]
    if spec.spot is True:
        return sold or _nowhere(names, where, "as spot machines ")
    try:
        listed = aws_prices.on_demand(names, where[0] if len(where) == 1 else "")
    except AwsError as error:
        known = {each.type.name: each.type for each in _from_catalog(spec, _why(error))}
        if not sold and not known.keys() & set(names):
            raise
        places = tuple(zone for region in where[:1] for zone in zones.get(region) or (region,))
        return sold + [Sold(known[name], places) for name in names if name in known]
    sold += [
        _at(kind, region, usd, zones.get(region))
        for kind in types
        for region in where
        if (usd := listed.get((kind.name, region))) is not None
    ]
    return sold or _nowhere(names, where)


def _why(error: AwsError) -> str:
    return f"AWS's own list of prices could not be had ({error.code})"


def _nowhere(names: Sequence[str], where: Sequence[str], how: str = "") -> list[Sold]:
    raise NoCapacity(
        f"AWS sells {', '.join(names)} {how}in none of {', '.join(where)}; name another region, or another type"
    )


def _at(kind: MachineType, region: str, usd: float, zones: Sequence[str] | None = None) -> Sold:
    """On demand, at a price of today."""
    bought = kind._replace(usd_per_hour=usd, spot_usd_per_hour=None, source=aws_prices.LIST)
    return Sold(bought._replace(region=region, as_of=today()), tuple(zones) if zones else (region,))


def _spot(kind: MachineType, zone: str, usd: float) -> Sold:
    """Spot, in the zone whose price it is."""
    bought = kind._replace(usd_per_hour=None, spot_usd_per_hour=usd, source=aws_prices.SPOT_HISTORY)
    return Sold(bought._replace(region=zone, as_of=today()), (zone,))


def _by_preference(names: Sequence[str]) -> list[str]:
    """The one that is set up here before others of the same price."""
    home = aws_session.home_region()
    return sorted(names, key=lambda name: (name != home, name))
