"""What AWS's machines cost in this world: a list of prices and a spot market, in the shapes of the real ones."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from dayfly.infra import catalog

# Some regions are dearer.
_FACTORS = {"us-east-1": 1.0, "us-east-2": 1.0, "eu-west-1": 1.12}
_SPOT_FACTOR = 0.4


def on_demand(type: str, region: str) -> float | None:
    """Dollars an hour, None for what is not sold there."""
    kind = catalog.machine_types("aws").get(type)
    if kind is None or kind.usd_per_hour is None or region not in _FACTORS:
        return None
    return round(kind.usd_per_hour * _FACTORS[region], 6)


def spot(type: str, zone: str) -> float | None:
    """Dollars an hour in a zone; the later ones cost a little more."""
    price = on_demand(type, zone[:-1])
    return None if price is None else round(price * (_SPOT_FACTOR + 0.01 * (ord(zone[-1]) - 97)), 4)


def products(filters: list[Mapping[str, str]]) -> list[str]:
    """The answer to GetProducts, each a JSON text, as it was recorded of the real one."""
    wanted = {each["Field"]: each["Value"] for each in filters}
    found = []
    for kind in catalog.machine_types("aws").values():
        for region in _FACTORS:
            price = on_demand(kind.name, region)
            if price is None:
                continue
            for row in _rows(kind, region, price):
                attributes = row["product"]["attributes"]
                if all(attributes.get(name) == value for name, value in wanted.items()):
                    found.append(json.dumps(row))
    return found


def _rows(kind: catalog.MachineType, region: str, price: float) -> Iterator[dict[str, Any]]:
    """The machine, and beside it what a real answer has as well: Windows, a reservation that costs nothing by itself."""
    for system, status, usd in (
        ("Linux", "Used", price),
        ("Windows", "Used", price * 1.8),
        ("Linux", "AllocatedCapacityReservation", 0.0),
    ):
        sku = f"{zlib.crc32(repr((kind.name, region, system, status)).encode()):016X}"
        code = f"{sku}.JRTCKXETXF"
        yield {
            "product": {
                "productFamily": "Compute Instance",
                "attributes": {
                    "servicecode": "AmazonEC2",
                    "instanceType": kind.name,
                    "regionCode": region,
                    "vcpu": str(kind.cores),
                    "memory": f"{kind.memory_bytes >> 30} GiB",
                    "operatingSystem": system,
                    "tenancy": "Shared",
                    "preInstalledSw": "NA",
                    "capacitystatus": status,
                    "marketoption": "OnDemand",
                    "usagetype": f"BoxUsage:{kind.name}",
                },
                "sku": sku,
            },
            "serviceCode": "AmazonEC2",
            "terms": {
                "OnDemand": {
                    code: {
                        "priceDimensions": {
                            f"{code}.6YS6EN2CT7": {
                                "unit": "Hrs",
                                "endRange": "Inf",
                                "description": f"${usd} per On Demand {system} {kind.name} Instance Hour",
                                "appliesTo": [],
                                "rateCode": f"{code}.6YS6EN2CT7",
                                "beginRange": "0",
                                "pricePerUnit": {"USD": f"{usd:.10f}"},
                            }
                        },
                        "sku": sku,
                        "effectiveDate": "2026-11-01T00:00:00Z",
                        "offerTermCode": "JRTCKXETXF",
                        "termAttributes": {},
                    }
                }
            },
            "version": "20261120000000",
            "publicationDate": "2026-11-20T00:00:00Z",
        }
