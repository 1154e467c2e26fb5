"""What Azure can offer for a Spec: cheapest first, by the catalog, or by the prices of just now in all regions."""

from __future__ import annotations

from dataclasses import replace

from dayfly.errors import NoCapacity, SpecError
from dayfly.infra import azure_beside, azure_images, azure_prices, azure_skus, catalog
from dayfly.infra.azure_errors import ApiError
from dayfly.infra.azure_prices import Price, PricesUnavailable
from dayfly.infra.catalog import MachineType
from dayfly.infra.offers import Offer, today
from dayfly.infra.selection import Selection, Sold
from dayfly.infra.spec import Spec

# az account list-locations, those that anybody may use; newer ones are known by their prices.
REGIONS = (
    *("eastus", "eastus2", "centralus", "northcentralus", "southcentralus", "westcentralus"),
    *("westus", "westus2", "westus3", "canadacentral", "canadaeast", "mexicocentral"),
    *("brazilsouth", "chilecentral", "northeurope", "westeurope", "uksouth", "ukwest"),
    *("francecentral", "germanywestcentral", "switzerlandnorth", "norwayeast", "swedencentral"),
    *("polandcentral", "italynorth", "spaincentral", "austriaeast", "belgiumcentral"),
    *("uaenorth", "qatarcentral", "israelcentral", "southafricanorth", "centralindia"),
    *("southindia", "westindia", "eastasia", "southeastasia", "japaneast", "japanwest"),
    *("koreacentral", "koreasouth", "australiaeast", "australiasoutheast", "australiacentral"),
    *("newzealandnorth", "indonesiacentral", "malaysiawest"),
)
_LIVE = "log in to Azure and set AZURE_SUBSCRIPTION_ID"
# Fractions of an A10 that only NVIDIA's licensed GRID driver runs: learn.microsoft.com/azure/virtual-machines/linux/n-series-driver-setup.
_OF_GRID = "ads_A10_v5"
# One subnet of the run's own.
_MOST_NODES = 200


def ladder(spec: Spec, *, live: bool) -> list[Offer]:
    """The Offers that satisfy a Spec, cheapest first, each with its disk and its address in the rate.

    Args:
        spec: what is asked for.
        live: whether the prices of just now are asked for.

    Raises:
        SpecError: nothing can satisfy it, or a name is not known; says what would.
        NoCapacity: it is sold, but not to this subscription.
    """
    _check(spec)
    known = Selection(spec, _sold(spec), "azure", "Azure", _LIVE)
    if not live:
        if spec.region:
            known.check_region(spec.region, REGIONS)
        found = [_of_catalog(offer) for offer in known.ladder(spec.region)]
    else:
        found = _live_ladder(spec, known)
    return [azure_beside.added(spec, offer) for offer in found]


def price_list(*, live: bool) -> list[Offer]:
    """Everything with its price: in all regions if live, else of the catalog."""
    if not live:
        return catalog.price_list("azure")
    types = catalog.machine_types("azure")
    prices = azure_prices.look_up(types, None)
    return [offer for price in prices for offer in _priced(types[price.name], price).offers()]


def _check(spec: Spec) -> None:
    azure_images.check(spec.image)
    if spec.nodes > _MOST_NODES:
        raise SpecError(
            f'nodes={spec.nodes}: provider="azure" makes at most {_MOST_NODES} machines a run, in one subnet'
        )
    if spec.instance_type and _OF_GRID in spec.instance_type and not spec.image:
        raise SpecError(
            f"instance_type={spec.instance_type!r} has a part of a GPU, which needs NVIDIA's GRID driver, and the image for"
            " GPUs has another: name an image of your own with image=, or another type"
        )


def _sold(spec: Spec) -> list[Sold]:
    """What the catalog has, but for what the image cannot run."""
    types = catalog.machine_types("azure").values()
    fit = (each for each in types if spec.image or _OF_GRID not in each.name)
    return [Sold(each._replace(storage_bytes=azure_images.MOST_FREE_BYTES), None) for each in fit]


def _live_ladder(spec: Spec, known: Selection) -> list[Offer]:
    """Of the types that the catalog would choose, in whatever region of those that the subscription may use is cheapest now."""
    fitting = known.ladder(spec.region)
    names = {offer.instance_type for offer in fitting}
    try:
        prices = azure_prices.look_up(names, spec.region)
    except PricesUnavailable as reason:
        return [_of_catalog(offer, f"; no live price: {reason}") for offer in fitting]
    if not prices:
        where = f"region={spec.region!r}" if spec.region else "region=None"
        raise SpecError(
            f"{where}: Azure's price list has no {', '.join(sorted(names))} there; `az vm list-skus --size"
            f" {sorted(names)[0]} -o table` shows where it is sold"
        )
    prices, note = _usable(spec, prices)
    types = {each.type.name: each.type for each in known.sold}
    sold = [Sold(_priced(types[price.name], price, note), (price.region,)) for price in prices]
    return known._replace(sold=sold).ladder(spec.region)


def _usable(spec: Spec, prices: list[Price]) -> tuple[list[Price], str]:
    """Those of the regions in which the subscription may have the type; all, with a note, where it cannot be asked.

    Raises:
        NoCapacity: there are none.
    """
    from dayfly.infra.azure_api import AzureApi  # a plan that asks nobody has no use for it

    try:
        places = azure_skus.places(AzureApi.from_environment(), spec.region)
    except ApiError as error:
        return prices, f"; whether the subscription may use the region is not known: {error.code}"
    found = [price for price in prices if price.region in places.get(price.name, ())]
    if not found:
        closed = ", ".join(dict.fromkeys(f"{each.name} in {each.region}" for each in prices))
        raise NoCapacity(
            f"this subscription may not use {closed}; `az vm list-skus --size {prices[0].name} --all -o table` shows where it"
            " may, and https://aka.ms/azureskunotavailable how to ask for more"
        )
    return found, ""


def _priced(type: MachineType, price: Price, note: str = "") -> MachineType:
    return type._replace(
        region=price.region,
        usd_per_hour=price.usd_per_hour,
        spot_usd_per_hour=price.spot_usd_per_hour,
        as_of=today(),
        source=f"{azure_prices.SOURCE}{note}",
    )


def _of_catalog(offer: Offer, note: str = "") -> Offer:
    """Its source says so where the price is another region's, or where no newer one could be had."""
    listed = catalog.machine_types("azure")[offer.instance_type].region
    elsewhere = f", in {listed}" if offer.region != listed else ""
    return replace(offer, source=f"{offer.source}{elsewhere}{note}")
