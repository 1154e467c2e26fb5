"""The retail prices as https://prices.azure.com/api/retail/prices gives them, for the sizes of the catalog.

The shape is that of Microsoft's documentation of the API; the prices are the catalog's, and higher by some percent in each further
region. It has entries that are not for a Linux machine beside those, as the real one does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from dayfly.infra.catalog import MachineType
from tests.emulators.azure.options import Options

_PAGE = 100
_REGIONS = ("eastus", "westus2", "westeurope")
_DEARER = 0.1
_EQUALS = re.compile(r"(\w+) eq '([^']*)'")


class Prices:
    """The price list."""

    def __init__(self, options: Options) -> None:
        self._items = [item for size in options.sizes.values() for item in _items(size)]

    def page(self, query: Mapping[str, str], url: str) -> dict[str, Any]:
        """One page, with where the next one is."""
        wanted: dict[str, set[str]] = {}
        for name, value in _EQUALS.findall(query.get("$filter", "")):
            wanted.setdefault({"priceType": "type"}.get(name, name), set()).add(value)
        rows = [i for i in self._items if all(i[name] in values for name, values in wanted.items())]
        first = int(query.get("$skip", "0"))
        shown = rows[first : first + _PAGE]
        more = {**query, "$skip": str(first + _PAGE)}
        left = len(rows) > first + _PAGE
        return {
            "BillingCurrency": "USD",
            "CustomerEntityId": "Default",
            "CustomerEntityType": "Retail",
            "Items": shown,
            "NextPageLink": f"{url}/api/retail/prices?{urlencode(more)}" if left else None,
            "Count": len(shown),
        }


def _items(size: MachineType) -> Iterator[dict[str, Any]]:
    short = size.name.removeprefix("Standard_").replace("_", " ")
    for number, region in enumerate(_REGIONS):
        factor = 1 + number * _DEARER
        usd = round((size.usd_per_hour or 1.0) * factor, 4)
        yield _item(size, region, short, usd)
        yield _item(size, region, f"{short} Low Priority", round(usd / 5, 4))
        yield _item(size, region, short, round(usd * 1.5, 4), product=" Windows")
        if size.spot_usd_per_hour is not None:
            yield _item(size, region, f"{short} Spot", round(size.spot_usd_per_hour * factor, 4))


def _item(
    size: MachineType, region: str, sku: str, usd: float, product: str = ""
) -> dict[str, Any]:
    family = re.sub(r"\d", "", size.name.removeprefix("Standard_")).replace("_", " ")
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": usd,
        "unitPrice": usd,
        "armRegionName": region,
        "location": region,
        "effectiveStartDate": "2026-01-01T00:00:00Z",
        "meterId": "000a794b-bdb0-58be-a0cd-0c3a0f222923",
        "meterName": sku,
        "productId": "DZH318Z0BQPS",
        "skuId": "DZH318Z0BQPS/00TG",
        "productName": f"Virtual Machines {family} Series{product}",
        "skuName": sku,
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": size.name,
    }
