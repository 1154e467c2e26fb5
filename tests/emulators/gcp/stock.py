"""What this Compute Engine has: zones, machine types, accelerators, images, quotas, and the rows of its price catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.emulators.gpu import Gpu

ZONES = (
    *(f"us-central1-{letter}" for letter in "abcf"),
    *(f"us-west1-{letter}" for letter in "ab"),
    *(f"europe-west4-{letter}" for letter in "abc"),
)
# Not all have all.
_WITHOUT_GPUS = ("us-central1-f", "europe-west4-c")


@dataclass(frozen=True)
class Type:
    """A machine type, with the GPUs that it has of its own."""

    name: str
    cores: int
    memory_gib: float
    accelerator: str = ""
    count: int = 0


TYPES = (
    Type("e2-standard-4", 4, 16),
    Type("n1-standard-8", 8, 30),
    Type("g2-standard-4", 4, 16, "nvidia-l4", 1),
    Type("g2-standard-8", 8, 32, "nvidia-l4", 1),
    Type("a2-highgpu-1g", 12, 85, "nvidia-tesla-a100", 1),
    Type("a3-highgpu-1g", 26, 234, "nvidia-h100-80gb", 1),
    Type("a3-highgpu-8g", 208, 1872, "nvidia-h100-80gb", 8),
)
# As the driver names them, with the memory that it leaves (MiB), and the metric of their quota.
_GPUS = {
    "nvidia-tesla-t4": ("Tesla T4", 15360, "NVIDIA_T4_GPUS"),
    "nvidia-l4": ("NVIDIA L4", 23034, "NVIDIA_L4_GPUS"),
    "nvidia-tesla-a100": ("NVIDIA A100-SXM4-40GB", 40960, "NVIDIA_A100_GPUS"),
    "nvidia-h100-80gb": ("NVIDIA H100 80GB HBM3", 81559, "NVIDIA_H100_GPUS"),
}
IMAGES = {
    ("deeplearning-platform-release", "common-cu129-ubuntu-2404-nvidia-580"): 50,
    ("ubuntu-os-cloud", "ubuntu-2404-lts-amd64"): 10,
    ("ubuntu-os-cloud", "ubuntu-2404-lts-arm64"): 10,
}
# Of a project that has asked for GPUs; a region's metric is "METRIC@REGION", of any region where only "METRIC" is there.
QUOTAS = {
    "GPUS_ALL_REGIONS": 16.0,
    "NETWORKS": 50.0,
    "FIREWALLS": 100.0,
    "NVIDIA_T4_GPUS": 8.0,
    "NVIDIA_L4_GPUS": 8.0,
    "NVIDIA_A100_GPUS": 8.0,
    "NVIDIA_H100_GPUS": 8.0,
}


def type_in(name: str, zone: str) -> Type | None:
    """A machine type, where the zone has it."""
    found = next((each for each in TYPES if each.name == name), None)
    lacking = found is not None and found.accelerator and zone in _WITHOUT_GPUS
    return None if lacking or zone not in ZONES else found


def accelerators(zone: str) -> tuple[str, ...]:
    """What can be had there."""
    return () if zone in _WITHOUT_GPUS else tuple(_GPUS)


def metric(accelerator: str) -> str:
    """Of its quota in a region."""
    return _GPUS[accelerator][2]


def shown(accelerator: str, count: int) -> Gpu | None:
    """What the driver shows of them."""
    if not accelerator:
        return None
    name, mib, _ = _GPUS[accelerator]
    return Gpu(name, count, mib)


_REGIONS = {
    "Americas": ("us-central1", "us-west1"),
    "Netherlands": ("europe-west4",),
}
# (description, way, unit, dollars in the Americas, factor elsewhere); parts of what the real catalogue has, which has also
# what must not be taken for it: commitments, custom machines, sole tenancy.
_SKUS = (
    ("E2 Instance Core running in {}", "OnDemand", "h", 0.02181159),
    ("E2 Instance Ram running in {}", "OnDemand", "GiBy.h", 0.00292353),
    ("E2 Custom Instance Core running in {}", "OnDemand", "h", 9.0),
    ("Spot Preemptible E2 Instance Core running in {}", "Preemptible", "h", 0.006543),
    ("Spot Preemptible E2 Instance Ram running in {}", "Preemptible", "GiBy.h", 0.000877),
    ("N1 Predefined Instance Core running in {}", "OnDemand", "h", 0.031611),
    ("N1 Predefined Instance Ram running in {}", "OnDemand", "GiBy.h", 0.004237),
    ("Spot Preemptible N1 Predefined Instance Core running in {}", "Preemptible", "h", 0.00665),
    ("Spot Preemptible N1 Predefined Instance Ram running in {}", "Preemptible", "GiBy.h", 0.00089),
    ("G2 Instance Core running in {}", "OnDemand", "h", 0.02498844),
    ("G2 Instance Ram running in {}", "OnDemand", "GiBy.h", 0.00292679),
    ("A2 Instance Core running in {}", "OnDemand", "h", 0.031611),
    ("A2 Instance Ram running in {}", "OnDemand", "GiBy.h", 0.004237),
    ("Spot Preemptible A3 Instance Core running in {}", "Preemptible", "h", 0.0089),
    ("Spot Preemptible A3 Instance Ram running in {}", "Preemptible", "GiBy.h", 0.00055),
    ("Nvidia Tesla T4 GPU running in {}", "OnDemand", "h", 0.35),
    (
        "Nvidia Tesla T4 GPU attached to Spot Preemptible VMs running in {}",
        "Preemptible",
        "h",
        0.14,
    ),
    ("Nvidia L4 GPU running in {}", "OnDemand", "h", 0.56004),
    ("Nvidia Tesla A100 GPU running in {}", "OnDemand", "h", 2.933908),
    (
        "Nvidia H100 80GB GPU attached to Spot Preemptible VMs running in {}",
        "Preemptible",
        "h",
        2.25,
    ),
    ("Commitment v1: Nvidia Tesla T4 GPU running in {} for 1 Year", "Commit1Yr", "h", 0.22),
    ("Balanced PD Capacity in {}", "OnDemand", "GiBy.mo", 0.1),
    ("External IP Charge on a Standard VM", "OnDemand", "h", 0.005),
    ("External IP Charge on a Spot Preemptible VM", "Preemptible", "h", 0.0025),
)
_DEARER = {"Americas": 1.0, "Netherlands": 1.1}


# What each family and each kind of GPU is called in the catalogue.
_SKU_FAMILIES = {"e2": "E2", "n1": "N1 Predefined", "g2": "G2", "a2": "A2", "a3": "A3"}
_SKU_GPUS = {
    "nvidia-tesla-t4": "Nvidia Tesla T4",
    "nvidia-l4": "Nvidia L4",
    "nvidia-tesla-a100": "Nvidia Tesla A100",
    "nvidia-h100-80gb": "Nvidia H100 80GB",
}
_MONTH_H = 730.0


def usd_per_hour(
    type: str, zone: str, accelerator: str, count: int, disk_gb: int, *, spot: bool
) -> float:
    """What one machine costs with its disk and its address, added up from those rows."""
    area = next(area for area, regions in _REGIONS.items() if zone[:-2] in regions)
    known = next(each for each in TYPES if each.name == type)
    family = _SKU_FAMILIES[type.partition("-")[0]]
    front, behind = ("Spot Preemptible ", " attached to Spot Preemptible VMs") if spot else ("", "")
    dollars = {description: usd for description, _, _, usd in _SKUS}
    total = (
        known.cores * dollars[f"{front}{family} Instance Core running in {{}}"]
        + known.memory_gib * dollars[f"{front}{family} Instance Ram running in {{}}"]
        + disk_gb * dollars["Balanced PD Capacity in {}"] / _MONTH_H
        + dollars[f"External IP Charge on a {front or 'Standard '}VM"]
    )
    if accelerator:
        total += count * dollars[f"{_SKU_GPUS[accelerator]} GPU{behind} running in {{}}"]
    return total * _DEARER[area]


def skus() -> Iterator[dict[str, Any]]:
    """Rows as `services.skus.list` has them."""
    for number, (description, way, unit, dollars) in enumerate(_SKUS):
        for area, regions in _REGIONS.items():
            nanos = round(dollars * _DEARER[area] * 1e9)
            price = {
                "currencyCode": "USD",
                "units": str(nanos // 10**9),
                "nanos": nanos % 10**9,
            }
            free = {"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0"}}
            paid = {"startUsageAmount": 1, "unitPrice": price}
            tiers = [free, paid] if "External" in description else [paid]
            yield {
                "skuId": f"{number:04X}-{area[:4].upper()}",
                "description": description.format(area),
                "category": {"resourceFamily": "Compute", "usageType": way},
                "serviceRegions": list(regions),
                "pricingInfo": [{"pricingExpression": {"usageUnit": unit, "tieredRates": tiers}}],
            }
