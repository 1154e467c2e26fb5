"""The price catalog of the package: what machines a provider had, and for how much, when someone last looked."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class MachineType:
    """One machine type of one provider.

    Attributes:
        name: the provider's own word for it.
        cores: virtual cores.
        memory_bytes: main memory.
        usd_per_hour: price while it exists; None where only a live look-up tells.
        gpus: number of GPUs.
        gpu_model: what they are, as `GpuRequest.model`; "" without.
        gpu_memory_gb: memory of each, as the vendor writes it.
        arch: "x86_64" or "arm64".
        storage_bytes: its own disk; 0 where nobody says.
        as_of: date of the price, ISO 8601, shortened where no more is known.
        source: where the price comes from.
    """

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


@functools.cache
def machine_types(provider: str) -> Mapping[str, MachineType]:
    """The catalog of one provider by name, in the order of its file; empty where it has none."""
    file = resources.files("dayfly.infra") / "prices" / f"{provider}.csv"
    if not file.is_file():
        return {}
    rows = csv.DictReader(file.read_text().splitlines())
    return {row["instance_type"]: _machine_type(row) for row in rows}


def _machine_type(row: Mapping[str, str]) -> MachineType:
    price = row["ondemand_usd_h"]
    return MachineType(
        name=row["instance_type"],
        cores=int(row["vcpus"]),
        memory_bytes=int(row["memory_gib"]) << 30,
        usd_per_hour=float(price) if price else None,
        gpus=int(row["gpu_count"]),
        gpu_model=row["gpu_model"],
        gpu_memory_gb=float(row["gpu_mem_gb_each"] or 0),
        arch=row["arch"],
        as_of=row["source_date"],
        source=row["source"],
    )
