"""Azure's retail prices, as anybody may ask for them: what a machine type costs in each region just now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dayfly.errors import ProvisionFailed
from dayfly.infra import azure_endpoint

SOURCE = "Azure retail prices API"
_PATH = "/api/retail/prices"
_TIMEOUT_S = (5.0, 15.0)
# A page has 100 prices, a type in one region some four.
_MOST_PAGES = 60


class PricesUnavailable(ProvisionFailed):
    """The prices could not be had, or are not as documented."""


class Price(NamedTuple):
    """What one type costs in one region.

    Attributes:
        usd_per_hour: for as long as it is wanted; None where it is not sold so.
        spot_usd_per_hour: where Azure may take it back.
    """

    name: str
    region: str
    usd_per_hour: float | None
    spot_usd_per_hour: float | None


def look_up(names: Iterable[str], region: str | None) -> list[Price]:
    """Prices of Linux machines of these types.

    Args:
        names: of the types, "Standard_NC4as_T4_v3".
        region: in one region alone; None for all.

    Raises:
        PricesUnavailable: no answer, or one that is not as documented.
    """
    found: dict[tuple[str, str], dict[bool, float]] = {}
    for item in _items(_filter(sorted(names), region)):
        try:
            if _is_of_linux_machine(item):
                name, place = str(item["armSkuName"]), str(item["armRegionName"])
                spot, usd = str(item["skuName"]).endswith(" Spot"), float(item["retailPrice"])
                found.setdefault((name, place), {})[spot] = usd
        except (KeyError, TypeError, ValueError) as error:
            raise PricesUnavailable(f"{SOURCE}: an entry without {error}: {item}") from error
    return [
        Price(name, place, usd.get(False), usd.get(True))
        for (name, place), usd in sorted(found.items())
    ]


def _filter(names: Iterable[str], region: str | None) -> str:
    types = " or ".join(f"armSkuName eq '{name}'" for name in names)
    where = f" and armRegionName eq '{region}'" if region else ""
    return f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and ({types}){where}"


def _is_of_linux_machine(item: Mapping[str, Any]) -> bool:
    """Not of one with a licence for Windows, nor of the former kind of spot machine, nor of Cloud Services."""
    product, sku = str(item["productName"]), str(item["skuName"])
    others = "Windows" in product or "Cloud Services" in product or sku.endswith(" Low Priority")
    return item["unitOfMeasure"] == "1 Hour" and item["currencyCode"] == "USD" and not others


def _items(query: str) -> Iterator[Mapping[str, Any]]:
    base = azure_endpoint.prices_url()
    url: str | None = base + _PATH
    asked: dict[str, str] | None = {"currencyCode": "'USD'", "$filter": query}
    for _ in range(_MOST_PAGES):
        if url is None:
            return
        page = _page(url, asked)
        yield from page["Items"]
        url, asked = page.get("NextPageLink") or None, None
        # It names the port as well, which is the scheme's own.
        if url is not None and urlsplit(url).hostname != urlsplit(base).hostname:
            raise PricesUnavailable(f"{SOURCE}: its next page is elsewhere, at {url}")
    raise PricesUnavailable(f"{SOURCE}: more than {_MOST_PAGES} pages; name a region")


def _page(url: str, parameters: Mapping[str, str] | None) -> dict[str, Any]:
    # A plan at the catalog's prices asks nobody, and this loads for as long as all the rest of it takes.
    import requests

    try:
        answer = requests.get(url, params=parameters, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        page = answer.json()
        if not isinstance(page, dict) or not isinstance(page.get("Items"), list):
            raise PricesUnavailable(f"{SOURCE}: an answer without Items")
    except (requests.RequestException, ValueError) as error:
        raise PricesUnavailable(f"{SOURCE}: {error}") from error
    return page
