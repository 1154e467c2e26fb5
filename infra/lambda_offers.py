"""What Lambda Cloud can offer for a Spec: cheapest first, where there is capacity, and a refusal that names what would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from dayfly.errors import SpecError
from dayfly.infra import catalog
from dayfly.infra.catalog import MachineType
from dayfly.infra.gpu_request import normal_model
from dayfly.infra.offers import Offer, today
from dayfly.infra.selection import Selection, Sold
from dayfly.infra.spec import Spec
from dayfly.infra.units import suggestion

if TYPE_CHECKING:
    from dayfly.infra.lambda_records import FileSystem, TypeRow

# Regions of the API's description; newer ones come from the API itself.
REGIONS = (
    *("us-east-1", "us-east-2", "us-east-3", "us-west-1", "us-west-2", "us-west-3"),
    *("us-south-1", "us-south-2", "us-south-3", "us-midwest-1", "us-midwest-2"),
    *("europe-central-1", "asia-south-1", "asia-northeast-1", "asia-northeast-2"),
    *("australia-east-1", "me-west-1"),
)
_LIVE = "Lambda Cloud API"
_MOST_NODES = 32


def from_api(rows: Iterable[TypeRow], as_of: str | None = None) -> list[Sold]:
    """What the API says just now."""
    return [_live(row, as_of or today()) for row in rows]


def price_list(rows: Iterable[TypeRow]) -> list[Offer]:
    """What can be had just now, of each type one Offer for each region that says it has it."""
    return [each.type.offer(place) for each in from_api(rows) for place in each.regions or ()]


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
    selection = Selection(spec, sold, "lambda", "Lambda", "export LAMBDA_API_KEY")
    region = _region(selection, regions)
    if spec.file_systems:
        region = _region_of_file_systems(spec, region, file_systems())
    return selection.ladder(region)


def _region(selection: Selection, more: Callable[[], Iterable[str]]) -> str | None:
    spec, sold = selection.spec, selection.sold
    if spec.region is None:
        return None
    known = {*REGIONS, *(region for each in sold for region in each.regions or ())}
    if spec.region not in known:
        known |= set(more())
    selection.check_region(spec.region, known)
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
