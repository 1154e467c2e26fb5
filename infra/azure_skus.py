"""Where a subscription may have which type of machine: not every region of the price list is open to everybody."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from dayfly.infra import azure_account, azure_endpoint, catalog, whole_file

if TYPE_CHECKING:
    from dayfly.infra.azure_api import AzureApi

# All regions together are tens of thousands of rows, which take many seconds.
_KEPT_S = 3600.0
_TYPE, _BY_LOCATION = "virtualMachines", "Location"

Places = dict[str, list[str]]


def places(api: AzureApi, region: str | None, now: float | None = None) -> Places:
    """The regions in which each type of the catalog may be had, by the subscription's own list of what it is sold.

    What was read of all regions is kept for an hour in the user's cache folder.

    Args:
        api: of the subscription.
        region: there alone; None for all.
        now: unix time.

    Raises:
        ApiError: the list cannot be had.
    """
    if region is not None or azure_endpoint.is_emulated():
        return _read(api.skus(region))
    moment = time.time() if now is None else now
    folder = platformdirs.user_cache_path("dayfly")
    file = folder / f"azure-skus-{azure_account.subscription().lower()}.json"
    found = _kept(file, moment)
    if found is None:
        found = _read(api.skus(None))
        _keep(file, found, moment)
    return found


def _read(skus: Iterable[Any]) -> Places:
    names = catalog.machine_types("azure")
    found: Places = {name: [] for name in names}
    for each in skus:
        if each.resource_type == _TYPE and each.name in found:
            found[each.name] += _open(each)
    return found


def _open(sku: Any) -> list[str]:
    """Its regions, without those that are closed to the subscription; one that is closed in some zones has others."""
    closed = {
        place.lower()
        for each in sku.restrictions or ()
        if each.type == _BY_LOCATION
        for place in each.values_property or ()
    }
    return [place.lower() for place in sku.locations or () if place.lower() not in closed]


def _kept(file: Path, now: float) -> Places | None:
    try:
        held = json.loads(file.read_text())
        found = {str(name): [str(each) for each in where] for name, where in held["found"].items()}
        # A newer catalog may have more types.
        complete = found.keys() >= catalog.machine_types("azure").keys()
        return found if complete and 0 <= now - held["at"] < _KEPT_S else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(file: Path, found: Places, now: float) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(file, json.dumps({"at": now, "found": found}))
    except OSError:
        # It is read again the next time.
        return
