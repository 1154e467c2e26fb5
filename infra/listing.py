"""Listing: the resources that a program would create, and who says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Resource:
    """One resource of the stack, as the program declares it.

    Attributes:
        type: as the engine writes it, "aws:ec2/instance:Instance".
        name: in the stack.
        usd_per_hour: what it costs while it exists; None where nobody has told its price, which may be above 0.
    """

    type: str
    name: str
    usd_per_hour: float | None = None


@dataclass(frozen=True)
class Listing:
    """What one rung of a ladder would create.

    Attributes:
        resources: in no order that means anything: the engine registers side by side what does not need each other.
        source: "engine" (the real engine's preview), "recorder" (the program run without an engine), "cache" (what one of the
            two has said before of the same program); "" where nobody was asked, or could be.
        why: why it was not the engine, in one line; "" where it was, or was not asked for.
    """

    resources: tuple[Resource, ...] = ()
    source: str = ""
    why: str = ""

    @classmethod
    def of(cls, resources: Sequence[Mapping[str, Any]], source: str, why: str = "") -> Listing:
        """One of plain JSON values."""
        return cls(tuple(Resource(**each) for each in resources), source, why)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Listing:
        """One that was written as JSON."""
        return cls.of(values["resources"], values["source"], values["why"])
