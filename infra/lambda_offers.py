"""What Lambda Cloud can offer for a Spec: cheapest first, where there is capacity, and a refusal that names what would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dayfly.errors import NoCapacity, SpecError
from dayfly.infra import catalog
from dayfly.infra.catalog import MachineType
from dayfly.infra.gpu_request import normal_model
from dayfly.infra.lambda_records import FileSystem, TypeRow
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_bytes, suggestion

# Regions of the API's description; newer ones come from the API itself.
REGIONS = (
    *("us-east-1", "us-east-2", "us-east-3", "us-west-1", "us-west-2", "us-west-3"),
    *("us-south-1", "us-south-2", "us-south-3", "us-midwest-1", "us-midwest-2"),
    *("europe-central-1", "asia-south-1", "asia-northeast-1", "asia-northeast-2"),
    *("australia-east-1", "me-west-1"),
)
# Rungs that nobody has named cost at most so many times what the first one does.
_DEAREST = 2.0
_LIVE = "Lambda Cloud API"
_MOST_NODES = 32


@dataclass(frozen=True)
class Sold:
    """One machine type with the regions that say they have it; None where nobody was asked."""

    type: MachineType
    regions: tuple[str, ...] | None


def from_catalog() -> list[Sold]:
    """What the package itself knows."""
    return [Sold(each, None) for each in catalog.machine_types("lambda").values()]


def from_api(rows: Iterable[TypeRow], today: str | None = None) -> list[Sold]:
    """What the API says just now."""
    as_of = today or datetime.now(UTC).date().isoformat()
    return [_live(row, as_of) for row in rows]


def price_list(rows: Iterable[TypeRow]) -> list[Offer]:
    """What can be had just now, of each type one Offer for each region that says it has it."""
    return [each.type.on_demand(place) for each in from_api(rows) for place in each.regions or ()]


def _live(row: TypeRow, as_of: str) -> Sold:
    listed = catalog.machine_types("lambda").get(row.name)
    model, memory_gb = _gpu_of(row.gpu_description) if row.gpus else ("", 0.0)
    found = MachineType(
        provider="lambda",
        name=row.name,
        cores=row.vcpus,
        memory_bytes=row.memory_gib << 30,
        usd_per_hour=row.price_cents_per_hour / 100,
        gpus=row.gpus,
        gpu_model=model,
        gpu_memory_gb=memory_gb or (listed.gpu_memory_gb if listed else 0.0),
        arch=row.architecture or (listed.arch if listed else ""),
        as_of=as_of,
        source=_LIVE,
        storage_bytes=row.storage_gib << 30,
    )
    return Sold(found, row.regions)


def _gpu_of(description: str) -> tuple[str, float]:
    """Model and memory of "A100 (40 GB SXM4)"."""
    model, _, form = description.partition("(")
    number = form.split(" ")[0]
    return normal_model(model.strip()), float(number) if number.isdigit() else 0.0


def ladder(
    spec: Spec,
    sold: Sequence[Sold],
    *,
    regions: Callable[[], Iterable[str]] = tuple,
    file_systems: Callable[[], Sequence[FileSystem]] = tuple,
) -> list[Offer]:
    """The Offers that satisfy a Spec, cheapest first.

    Args:
        spec: what is asked for.
        sold: what there is.
        regions: asked for further regions when the Spec names one that is not known here.
        file_systems: asked for the account's file systems when the Spec names some.

    Raises:
        SpecError: nothing can satisfy it, or a name is not known; says what would.
        NoCapacity: it could be satisfied, and no region says that it has such a machine now.
    """
    if spec.nodes > _MOST_NODES:
        raise SpecError(
            f'nodes={spec.nodes}: provider="lambda" makes at most {_MOST_NODES} machines a run: one launch takes 12 s'
        )
    region = _region(spec, sold, regions)
    if spec.file_systems:
        region = _region_of_file_systems(spec, region, file_systems())
    kinds = _fitting(spec, sold)
    offers = [offer for fitting in kinds for offer in _affordable(fitting, region, spec)]
    if not offers:
        raise NoCapacity(_nowhere(spec, [each for fitting in kinds for each in fitting], sold))
    return list(dict.fromkeys(offers))


def _affordable(fitting: Sequence[Sold], region: str | None, spec: Spec) -> list[Offer]:
    """What there is of one kind, without what nobody has named and would be a surprise on the bill."""
    offers = [offer for each in fitting for offer in _rungs(each, region, spec)]
    named = spec.instance_type is not None or not offers
    most = float("inf") if named else offers[0].usd_per_hour * _DEAREST
    return [offer for offer in offers if offer.usd_per_hour <= most]


def _region(spec: Spec, sold: Sequence[Sold], more: Callable[[], Iterable[str]]) -> str | None:
    if spec.region is None:
        return None
    known = {*REGIONS, *(region for each in sold for region in each.regions or ())}
    if spec.region not in known:
        known |= set(more())
    if spec.region not in known:
        raise SpecError(
            f'provider="lambda" has no region {spec.region!r}; {suggestion(spec.region, known)}'
        )
    return spec.region


def _region_of_file_systems(spec: Spec, region: str | None, there: Sequence[FileSystem]) -> str:
    """The region that all of them are in, which the machine has to be in as well."""
    by_name = {each.name: each for each in there}
    for name in spec.file_systems:
        if name not in by_name:
            known = suggestion(name, by_name) if by_name else "the account has none"
            raise SpecError(f"file_systems: no file system {name!r}; {known}")
    places = {by_name[name].region for name in spec.file_systems} | ({region} if region else set())
    if len(places) > 1:
        where = ", ".join(f"{name} is in {by_name[name].region}" for name in spec.file_systems)
        asked = f", region={region!r} is asked for" if region else ""
        raise SpecError(
            f"file_systems: all have to be in the machine's region, and {where}{asked}; leave region= out, or name"
            " file systems of one region"
        )
    return places.pop()


def _fitting(spec: Spec, sold: Sequence[Sold]) -> list[list[Sold]]:
    """The types that satisfy a Spec, cheapest first: those of the preferred kind of GPU, then those of the next."""
    priced = [each for each in sold if each.type.usd_per_hour is not None]
    enough = sorted(
        (each for each in priced if not _lacks(spec, each.type)),
        key=lambda each: (each.type.usd_per_hour, each.type.name),
    )
    if spec.instance_type is not None:
        return [[_named(spec, sold, enough)]]
    if not enough:
        raise SpecError(_nothing_fits(spec, priced))
    return _with_few_gpus(spec, enough) if spec.gpus else [enough]


def _with_few_gpus(spec: Spec, enough: Sequence[Sold]) -> list[list[Sold]]:
    """Of each kind those with the fewest GPUs: eight are "at least one", and nobody who asks for one wants to pay for them."""
    kinds, too_many = list[list[Sold]](), list[Sold]()
    for wanted in spec.gpus:
        fitting = [each for each in enough if wanted.is_sold_with(each.type)]
        least = min((each.type.gpus for each in fitting), default=0)
        fewest = [each for each in fitting if each.type.gpus == least]
        if least > wanted.count * _DEAREST:
            too_many += fewest
        elif fewest:
            kinds.append(fewest)
    if not kinds:
        first = too_many[0].type
        raise SpecError(
            f"gpu={spec.gpu!r}: Lambda has them {first.gpus} at a time only, {_described(first)}; if that is what you"
            f" want, write gpu={_gpu_words(first)!r}"
        )
    return kinds


def _named(spec: Spec, sold: Sequence[Sold], enough: Sequence[Sold]) -> Sold:
    by_name = {each.type.name: each for each in sold}
    name = str(spec.instance_type)
    if name not in by_name:
        raise SpecError(
            f'provider="lambda" has no instance_type {name!r}; {suggestion(name, by_name)}'
        )
    found = by_name[name]
    if found.type.usd_per_hour is None:
        raise SpecError(
            f"instance_type={name!r}: its price is only known live; export LAMBDA_API_KEY"
        )
    lacks = _lacks(spec, found.type)
    if lacks:
        nearest = _described(enough[0].type) if enough else "none of Lambda's"
        raise SpecError(
            f"instance_type={name!r} has {' and '.join(lacks)}; the nearest that fits is {nearest}"
        )
    return found


def _lacks(spec: Spec, each: MachineType) -> list[str]:
    """What a type has too little of, in words; empty where it fits."""
    return list(_shortages(spec, each))


def _shortages(spec: Spec, each: MachineType) -> Iterator[str]:
    if (spec.cores or 0) > each.cores:
        yield f"{each.cores} cores, fewer than cores={spec.cores}"
    if spec.memory_bytes > each.memory_bytes:
        asked = human_bytes(spec.memory_bytes)
        yield f"{human_bytes(each.memory_bytes)} of memory, less than memory={asked}"
    if each.storage_bytes and spec.disk_bytes > each.storage_bytes:
        asked = human_bytes(spec.disk_bytes)
        yield f"{human_bytes(each.storage_bytes)} of disk, less than disk={asked}"
    if spec.gpus and not any(wanted.is_sold_with(each) for wanted in spec.gpus):
        have = f"{each.gpus} x {each.gpu_model} {each.gpu_memory_gb:.0f} GB"
        yield f"{have if each.gpus else 'no GPU'}, not gpu={spec.gpu!r}"


def _nothing_fits(spec: Spec, priced: Sequence[Sold]) -> str:
    """Says which field is out of reach, and the nearest type that the others allow."""
    for name in ("gpu", "disk", "memory", "cores"):
        if getattr(spec, name) is None:
            continue
        left_out: dict[str, Any] = {name: None}
        rest = replace(spec, **left_out)
        without = [each for each in priced if not _lacks(rest, each.type)]
        if without and name == "gpu":
            choices = dict.fromkeys(_gpu_words(each.type) for each in without if each.type.gpus)
            return f"gpu={spec.gpu!r}: Lambda has {', '.join(choices)}"
        if without:
            nearest = max(without, key=lambda each: _size(name, each.type))
            asked = (
                human_bytes(getattr(spec, name))
                if name in ("disk", "memory")
                else getattr(spec, name)
            )
            return f"{name}={asked}: nothing that Lambda has satisfies it; the nearest is {_described(nearest.type)}"
    return "no type of Lambda's has so much of everything that is asked for; ask for less, or leave some out"


def _size(name: str, each: MachineType) -> float:
    sizes = {
        "cores": each.cores,
        "memory": each.memory_bytes,
        "disk": each.storage_bytes,
    }
    return sizes[name]


def _gpu_words(each: MachineType) -> str:
    return f"{each.gpu_model}-{each.gpu_memory_gb:.0f}GB:{each.gpus}"


def _described(each: MachineType) -> str:
    gpus = f", {each.gpus} x {each.gpu_model}" if each.gpus else ""
    return f"{each.name} ({each.cores} cores, {human_bytes(each.memory_bytes)}{gpus}, ${each.usd_per_hour:g}/h)"


def _rungs(each: Sold, region: str | None, spec: Spec) -> Iterator[Offer]:
    if each.regions is None:
        places: tuple[str, ...] = (region or catalog.ANY_REGION,)
    elif region is None:
        places = each.regions
    else:
        # What the API says of capacity is advice: where a machine is named, it is asked for all the same.
        listed = region in each.regions or spec.instance_type is not None
        places = (region,) if listed else ()
    for place in places:
        yield each.type.on_demand(place)


def _nowhere(spec: Spec, fitting: Sequence[Sold], sold: Sequence[Sold]) -> str:
    names = ", ".join(each.type.name for each in fitting)
    where = f"in {spec.region}" if spec.region else "in any region"
    elsewhere = [
        f"{each.type.name} in {', '.join(each.regions)} (${each.type.usd_per_hour:g}/h)"
        for each in sorted(sold, key=lambda each: each.type.usd_per_hour or 0.0)
        if each.regions and not _lacks(replace(spec, instance_type=None, gpu=None), each.type)
    ]
    now = f"there is {'; '.join(elsewhere[:3])}" if elsewhere else "nothing else is free either"
    return f"Lambda has no capacity for {names} {where} just now; {now}. Try again later, or name another"
