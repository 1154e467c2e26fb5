"""Offer: one priced way to satisfy a Spec."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any


def today() -> str:
    """`Offer.as_of` of a price that is asked for now."""
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True)
class Offer:
    """One priced way to satisfy a Spec.

    Attributes:
        provider: name of the provider's file.
        region: the provider's own word for the place.
        instance_type: the provider's own word for the machine.
        cores: virtual cores.
        memory_bytes: main memory.
        usd_per_hour: price of the machine while it exists.
        gpus: number of GPUs.
        gpu_model: what they are, "" without.
        spot: True where the provider may take the machine back.
        as_of: date of the price, ISO 8601.
        source: where the price comes from.
        gpu_memory_gb: memory of each as the vendor writes it, 0 where nobody says.
        arch: "x86_64" or "arm64", "" where nobody says.
    """

    provider: str
    region: str
    instance_type: str
    cores: int
    memory_bytes: int
    usd_per_hour: float
    gpus: int = 0
    gpu_model: str = ""
    spot: bool = False
    as_of: str = ""
    source: str = ""
    gpu_memory_gb: float = 0.0
    arch: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values that `Offer(**values)` takes back."""
        return asdict(self)
