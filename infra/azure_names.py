"""Names at Azure: a run has one resource group, named after it, and all that it has lies in there."""

from __future__ import annotations

import re
from typing import NamedTuple

from dayfly.infra.found import Found
from dayfly.infra.run import Run

# Of the resource group, so that a machine which is not there any more is known to be one that Azure may take back.
SPOT_TAG = "dayfly-spot"
NETWORK, SUBNET, FIREWALL = "network", "machines", "firewall"
_OWN = r"(?P<group>dayfly-(?P<run>[0-9a-f]{32}))(?P<node>-[1-9]\d*)?"
_RESOURCE = (
    r"(?i)/subscriptions/[^/]+/resourceGroups/(?P<group>[^/]+)"
    r"(?:/providers/(?P<type>[^/]+/[^/]+)/(?P<name>[^/]+))?"
)


class Place(NamedTuple):
    """Where a machine is: its resource group, its name there, and how its number among those of its run is written."""

    group: str
    name: str
    suffix: str = ""


def group_of(run: Run) -> str:
    """The resource group of a run; of at most 90 letters, digits, "_", ".", "-" and brackets."""
    return f"dayfly-{run.id}"


def resource_group(subscription: str, run: str) -> str:
    """The id of a run's resource group, in lower case."""
    return f"/subscriptions/{subscription}/resourcegroups/dayfly-{run}".lower()


def suffix_of(node: int) -> str:
    """How the number of a machine is written; the first has none."""
    return f"-{node}" if node else ""


def machine_of(run: Run, node: int) -> str:
    """The name of a machine, which is its id as well: it tells its group. At most 64 characters, for Linux."""
    return group_of(run) + suffix_of(node)


def host_name_of(run: Run, node: int) -> str:
    """What a machine calls itself."""
    return f"dayfly-{run.id[:12]}{suffix_of(node)}"


def place_of(id: str) -> Place | None:
    """Where the machine of an id is; None where no machine can have it."""
    if own := re.fullmatch(_OWN, id):
        return Place(own["group"], id, own["node"] or "")
    found = re.fullmatch(_RESOURCE, id)
    if found and found["name"]:
        return Place(found["group"], found["name"])
    return None


def id_of(resource_id: str) -> str:
    """The id of a machine of Azure's own: its name, where that tells its group, as those of runs do."""
    place = place_of(resource_id)
    own = place and re.fullmatch(_OWN, place.name)
    return place.name if place and own and own["group"] == place.group.lower() else resource_id


def type_of(resource_id: str) -> str:
    """Of what type a resource is, in lower case: "microsoft.compute/disks"; "" for a resource group."""
    found = re.fullmatch(_RESOURCE, resource_id)
    return (found["type"] or "").lower() if found else ""


def group_in(resource_id: str) -> str:
    """In which group a resource lies, in lower case: Azure gives it in any."""
    found = re.match(_RESOURCE, resource_id)
    return found["group"].lower() if found else ""


def own_group_of(found: Found) -> str | None:
    """The group that was made for the run of a thing that is ours, with which the thing ends; None where it lies elsewhere.

    By name and by tag: nobody else's group may ever be ended because one of our things was moved there.
    """
    place = place_of(found.id)
    group = place.group if place else group_in(found.id)
    own = re.fullmatch(_OWN, group.lower())
    is_of_run = own is not None and not own["node"] and found.run in ("", own["run"])
    return group.lower() if is_of_run else None
