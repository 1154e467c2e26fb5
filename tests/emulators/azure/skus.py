"""What a subscription is sold, as Resource SKUs lists it: a row for each size and region, with what is closed to it.

The shape is that of Microsoft's documentation (learn.microsoft.com/rest/api/compute/resource-skus/list); regions are written in
mixed case there, and here. Sizes are those of the catalog; beside them is a disk, as the real list has those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.emulators.azure.options import Options
from tests.emulators.azure.refusal import ArmError

_FILTER = re.compile(r"location eq '([^']+)'")


def rows(options: Options, filter: str) -> Iterator[dict[str, Any]]:
    """Those that a filter keeps.

    Raises:
        ArmError: it is none that the API knows.
    """
    only = _FILTER.fullmatch(filter)
    if filter and only is None:
        raise ArmError(400, "InvalidFilterInQueryString", f"Invalid $filter '{filter}'.")
    for region in options.regions:
        if only and only[1] != region:
            continue
        yield _row("disks", "Premium_LRS", region, closed=False)
        for size in options.sizes:
            closed = f"{size}@{region}" in options.closed
            yield _row("virtualMachines", size, region, closed=closed)


def _row(type: str, name: str, region: str, *, closed: bool) -> dict[str, Any]:
    restriction = {
        "type": "Location",
        "values": [region],
        "restrictionInfo": {"locations": [region]},
        "reasonCode": "NotAvailableForSubscription",
    }
    # Some zones are closed to most; the region is not.
    zone = {
        "type": "Zone",
        "values": [region],
        "restrictionInfo": {"locations": [region], "zones": ["3"]},
        "reasonCode": "NotAvailableForSubscription",
    }
    shown = region.upper() if region.startswith("west") else region
    return {
        "resourceType": type,
        "name": name,
        "locations": [shown],
        "locationInfo": [{"location": shown, "zones": ["1", "2", "3"]}],
        "restrictions": [zone, restriction] if closed else [zone],
    }
