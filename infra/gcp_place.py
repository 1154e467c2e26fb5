"""Places of Compute Engine's resources: "projects/P/zones/Z/instances/NAME", as its API and its Pulumi plugin write them."""

from __future__ import annotations

import re
from typing import NamedTuple

_PATH = (
    r"(?:.*/)?projects/(?P<project>[^/]+)/"
    r"(?:zones/(?P<zone>[^/]+)|regions/(?P<region>[^/]+)|global)/"
    r"(?P<kind>instances|disks|firewalls|subnetworks|networks)/(?P<name>[^/]+)$"
)


class Place(NamedTuple):
    """One resource.

    Attributes:
        project: that it is in.
        kind: "instances", "disks", "firewalls", "subnetworks" or "networks".
        name: of its own.
        zone: that it is in, "" where it is in none.
        region: that it is in, "" where it is in a zone, or in all.
    """

    project: str
    kind: str
    name: str
    zone: str = ""
    region: str = ""

    @classmethod
    def of(cls, link: str) -> Place | None:
        """Of an id, or of the API's address of it; None where it is none."""
        found = re.match(_PATH, link)
        return cls(**{n: v or "" for n, v in found.groupdict().items()}) if found else None

    def __str__(self) -> str:
        where = f"zones/{self.zone}" if self.zone else f"regions/{self.region}"
        scope = where if self.zone or self.region else "global"
        return f"projects/{self.project}/{scope}/{self.kind}/{self.name}"


def region_of(zone: str) -> str:
    """The region that a zone is in: "us-central1" of "us-central1-a"; a region's own name as it is."""
    return re.sub(r"-[a-z]$", "", zone)


def last(link: str) -> str:
    """The last part of an address."""
    return link.rpartition("/")[2]
