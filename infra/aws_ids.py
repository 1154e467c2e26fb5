"""Ids of things at AWS with the region that they are in, "us-east-1/i-0abc...": every API of AWS's is one region's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

_PLACE = r"([a-z]{2,}(?:-[a-z]+)+-\d+)([a-z]?)"


class AwsId(NamedTuple):
    """One thing.

    Attributes:
        region: "us-east-1".
        id: AWS's own, "i-0abc...".
    """

    region: str
    id: str

    @classmethod
    def of(cls, text: str) -> Self | None:
        """From "us-east-1/i-0abc..."; None where it is nothing of the kind, so that nothing is there of that name."""
        region, _, id = text.partition("/")
        return cls(region, id) if id and zone_of(region) == (region, "") else None

    def __str__(self) -> str:
        return f"{self.region}/{self.id}"

    @property
    def sort(self) -> str:
        """What it is, "i" of "i-0abc..."."""
        return self.id.rpartition("-")[0]


def zone_of(place: str) -> tuple[str, str] | None:
    """Region and zone of an Offer's place: "us-east-1b" is a zone, "us-east-1" leaves that to EC2; None for neither."""
    match = re.fullmatch(_PLACE, place)
    if match is None:
        return None
    return match[1], place if match[2] else ""


def regions_of(places: Sequence[str]) -> tuple[str, ...]:
    """The regions that Offers' places are in, each once; none where one of them is nothing that AWS has."""
    found = [zone_of(each) for each in places]
    if None in found:
        return ()
    return tuple(dict.fromkeys(each[0] for each in found if each))


def zones_named(text: str) -> tuple[str, ...]:
    """The zones that a text names, each once."""
    zones = re.findall(r"\b[a-z]{2,}(?:-[a-z]+)+-\d+[a-z]\b", text)
    return tuple(dict.fromkeys(zones))
