"""The price catalog of the package: what machines a provider had, and for how much, when someone last looked."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dayfly.infra.offers import Offer

ANY_REGION = "any"


class MachineType(NamedTuple):
    """One machine type of one provider.

    Attributes:
        provider: whose it is.
        name: the provider's own word for it.
        cores: virtual cores.
        memory_bytes: main memory.
        usd_per_hour: price while it exists; None where only a live look-up tells.
        spot_usd_per_hour: price where the provider may take it back; None where there is none, or nobody says.
        region: for which the prices are; "" for all.
        gpus: number of GPUs.
        gpu_model: what they are, as `GpuRequest.model`; "" without.
        gpu_memory_gb: memory of each, as the vendor writes it.
        arch: "x86_64" or "arm64".
        storage_bytes: its own disk; 0 where nobody says.
        as_of: date of the price, ISO 8601, shortened where no more is known.
        source: where the price comes from.
    """

    provider: str
    name: str
    cores: int
    memory_bytes: int
    usd_per_hour: float | None
    gpus: int
    gpu_model: str
    gpu_memory_gb: float
    arch: str
    as_of: str
    source: str
    storage_bytes: int = 0
    spot_usd_per_hour: float | None = None
    region: str = ""

    def price(self, spot: bool) -> float | None:
        """Dollars an hour; None where only a live look-up tells, or it is not sold so."""
        return self.spot_usd_per_hour if spot else self.usd_per_hour

    def offers(self) -> Iterator[Offer]:
        """One for each way of buying it whose price is known."""
        for spot in (False, True):
            if self.price(spot) is not None:
                yield self.offer(spot=spot)

    def offer(self, region: str = "", *, spot: bool = False) -> Offer:
        """The Offer of one, in a region or where its prices are of; it has a price."""
        usd_per_hour = self.price(spot)
        assert usd_per_hour is not None
        return Offer(
            provider=self.provider,
            region=region or self.region or ANY_REGION,
            instance_type=self.name,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            usd_per_hour=usd_per_hour,
            gpus=self.gpus,
            gpu_model=self.gpu_model,
            spot=spot,
            as_of=self.as_of,
            source=self.source,
            gpu_memory_gb=self.gpu_memory_gb,
            arch=self.arch,
        )


def providers() -> tuple[str, ...]:
    """Whose machines it has."""
    return tuple(dict.fromkeys(each.provider for each in all_types()))


def price_list(provider: str) -> list[Offer]:
    """All that it knows prices of."""
    return [offer for each in machine_types(provider).values() for offer in each.offers()]


@functools.cache
def all_types() -> tuple[MachineType, ...]:
    """The whole catalog, in the order of its file."""
    file = Path(__file__).with_name("catalog.csv")
    return tuple(map(_machine_type, csv.DictReader(file.read_text().splitlines())))


@functools.cache
def machine_types(provider: str) -> Mapping[str, MachineType]:
    """The catalog of one provider by name; empty where it has none."""
    return {each.name: each for each in all_types() if each.provider == provider}


def _machine_type(row: Mapping[str, str]) -> MachineType:
    price, spot = row["ondemand_usd_h"], row["spot_usd_h"]
    return MachineType(
        provider=row["provider"],
        name=row["instance_type"],
        cores=int(row["vcpus"]),
        memory_bytes=int(row["memory_gib"]) << 30,
        usd_per_hour=float(price) if price else None,
        spot_usd_per_hour=float(spot) if spot else None,
        region=row["region"],
        gpus=int(row["gpu_count"]),
        gpu_model=row["gpu_model"],
        gpu_memory_gb=float(row["gpu_mem_gb_each"] or 0),
        arch=row["arch"],
        as_of=row["source_date"],
        source=row["source"],
    )
