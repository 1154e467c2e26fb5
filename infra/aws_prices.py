"""What AWS's machines cost just now: on demand from its list of prices, spot from EC2's own history of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dayfly.infra import aws_session
from dayfly.infra.aws_errors import AwsError, mapped
from dayfly.infra.aws_ids import zone_of
from dayfly.infra.beside import MONTH_H, SPOT_MARGIN

LIST, SPOT_HISTORY = "AWS Price List", "EC2 spot price history"
_AT_ONCE = 8
# An ordinary Linux machine that nobody has reserved: without these a type has dozens of products.
_PLAIN = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
# https://aws.amazon.com/ebs/pricing/ and https://aws.amazon.com/vpc/pricing/, us-east-1; up to a third more elsewhere.
_GP3_USD_PER_GB_MONTH = 0.08
_ADDRESS_USD_PER_HOUR = 0.005


def beside_usd_per_hour(disk_gb: int) -> float:
    """What a machine's root volume and its public address cost, which are billed beside it for as long as it is there."""
    return disk_gb * _GP3_USD_PER_GB_MONTH / MONTH_H + _ADDRESS_USD_PER_HOUR


def most_usd_per_hour(spot_usd: float) -> float:
    """The most that is to be paid for a spot machine whose price is this now; EC2 takes it back, or launches none, above that.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-instances-history.html
    """
    return spot_usd * SPOT_MARGIN


def on_demand(types: Iterable[str], region: str = "") -> dict[tuple[str, str], float]:
    """Dollars an hour by type and region.

    Args:
        types: AWS's own names.
        region: only there; "" is everywhere.

    Raises:
        AwsError: the list cannot be asked.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="aws-prices") as pool:
        found = pool.map(lambda name: _of_type(name, region), dict.fromkeys(types))
        return {key: usd for prices in found for key, usd in prices.items()}


def _of_type(name: str, region: str) -> dict[tuple[str, str], float]:
    wanted = {"instanceType": name, **_PLAIN, **({"regionCode": region} if region else {})}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": v} for field, v in wanted.items()]
    doing = f"looking up what {name} costs"
    with mapped(doing):
        pages = aws_session.client("pricing").get_paginator("get_products")
        rows = [
            row
            for page in pages.paginate(ServiceCode="AmazonEC2", Filters=filters)
            for row in page["PriceList"]
        ]
    try:
        return dict(price for row in rows for price in _prices(name, json.loads(row)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AwsError(doing, "Unanswered", f"it is not as documented ({error!r})") from error


def _prices(name: str, row: Mapping[str, Any]) -> Iterable[tuple[tuple[str, str], float]]:
    """Of one product; those that cost nothing are parts of something else."""
    for term in row.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"].get("USD", 0))
            if dimension["unit"] == "Hrs" and usd > 0:
                yield (name, str(row["product"]["attributes"]["regionCode"])), usd


def spot(types: Sequence[str], regions: Sequence[str]) -> dict[tuple[str, str], float]:
    """Dollars an hour by type and zone: what is paid for one just now.

    Raises:
        AwsError: a region cannot be asked.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="aws-prices") as pool:
        found = pool.map(lambda region: _spot_in(types, region), regions)
        return {key: usd for prices in found for key, usd in prices.items()}


def _spot_in(types: Sequence[str], region: str) -> dict[tuple[str, str], float]:
    with mapped(f"looking up spot prices in {region}"):
        pages = aws_session.client("ec2", region).get_paginator("describe_spot_price_history")
        rows = [
            row
            for page in pages.paginate(
                InstanceTypes=list(types),
                ProductDescriptions=["Linux/UNIX"],
                # From now on: the price of now of each zone, and no history.
                StartTime=datetime.now(UTC),
            )
            for row in page["SpotPriceHistory"]
        ]
    # Local Zones and Wavelength ("us-west-2-lax-1a") are no rungs: they have other networks and images.
    rows = [row for row in rows if zone_of(str(row["AvailabilityZone"])) is not None]
    newest_last = sorted(rows, key=lambda row: row["Timestamp"])
    return {
        (str(row["InstanceType"]), str(row["AvailabilityZone"])): float(row["SpotPrice"])
        for row in newest_last
    }
