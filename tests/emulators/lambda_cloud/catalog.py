"""What the emulated cloud sells and where: instance types, regions and images, with list prices of autumn 2026."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REGIONS = {
    "us-west-1": "California, USA",
    "us-west-2": "Arizona, USA",
    "us-west-3": "Utah, USA",
    "us-east-1": "Virginia, USA",
    "us-east-2": "Washington DC, USA",
    "us-east-3": "Washington DC, USA",
    "us-south-1": "Texas, USA",
    "us-south-2": "North Texas, USA",
    "us-south-3": "Central Texas, USA",
    "us-midwest-1": "Illinois, USA",
    "us-midwest-2": "Ohio, USA",
    "europe-central-1": "Germany",
    "asia-south-1": "India",
    "asia-northeast-1": "Osaka, Japan",
    "asia-northeast-2": "Tokyo, Japan",
    "australia-east-1": "Sydney, Australia",
    "me-west-1": "Tel Aviv, Israel",
}


@dataclass(frozen=True)
class InstanceType:
    """One size of machine.

    Attributes:
        gpu: short model name, "" for none.
        form: what the description adds to the model, as in "40 GB SXM4".
        gpu_memory_gib: of each GPU.
    """

    name: str
    gpus: int
    gpu: str
    form: str
    gpu_memory_gib: int
    vcpus: int
    memory_gib: int
    storage_gib: int
    price_cents_per_hour: int
    regions: tuple[str, ...]
    architecture: str = "x86_64"

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        gpu = f"{self.gpu} ({self.form})" if self.gpus else "N/A"
        return {
            "name": self.name,
            "description": f"{self.gpus}x {gpu}" if self.gpus else f"{self.vcpus}x CPU General",
            "gpu_description": gpu,
            "price_cents_per_hour": self.price_cents_per_hour,
            "architecture": self.architecture,
            "specs": {
                "vcpus": self.vcpus,
                "memory_gib": self.memory_gib,
                "storage_gib": self.storage_gib,
                "gpus": self.gpus,
            },
        }


_US = ("us-east-1", "us-west-1", "us-west-2")
_WIDE = (*_US, "us-south-1", "us-midwest-1", "europe-central-1")

TYPES = {
    each.name: each
    for each in (
        InstanceType("cpu_4x_general", 0, "", "", 0, 4, 16, 512, 20, _US),
        InstanceType("gpu_1x_rtx6000", 1, "RTX 6000", "24 GB", 24, 14, 46, 512, 69, _US),
        InstanceType("gpu_1x_a6000", 1, "A6000", "48 GB", 48, 14, 100, 512, 109, _US),
        InstanceType("gpu_2x_a6000", 2, "A6000", "48 GB", 48, 28, 200, 1024, 218, _US),
        InstanceType("gpu_4x_a6000", 4, "A6000", "48 GB", 48, 56, 400, 1024, 436, _US),
        InstanceType("gpu_1x_a10", 1, "A10", "24 GB PCIe", 24, 30, 200, 1400, 129, _WIDE),
        InstanceType("gpu_1x_a100", 1, "A100", "40 GB PCIe", 40, 30, 200, 512, 199, _WIDE),
        InstanceType("gpu_1x_a100_sxm4", 1, "A100", "40 GB SXM4", 40, 30, 220, 512, 199, _WIDE),
        InstanceType("gpu_8x_a100", 8, "A100", "40 GB SXM4", 40, 124, 1800, 6144, 1592, _US),
        InstanceType(
            "gpu_8x_a100_80gb_sxm4", 8, "A100", "80 GB SXM4", 80, 240, 1800, 19968, 2232, _US
        ),
        InstanceType("gpu_1x_h100_pcie", 1, "H100", "80 GB PCIe", 80, 26, 200, 1024, 329, _WIDE),
        InstanceType("gpu_1x_h100_sxm5", 1, "H100", "80 GB SXM5", 80, 26, 225, 2816, 429, _WIDE),
        InstanceType("gpu_8x_h100_sxm5", 8, "H100", "80 GB SXM5", 80, 208, 1800, 22528, 3192, _US),
        InstanceType("gpu_1x_gh200", 1, "GH200", "96 GB", 96, 64, 432, 4096, 229, _US, "arm64"),
        InstanceType("gpu_1x_b200_sxm6", 1, "B200", "180 GB SXM6", 180, 26, 360, 2816, 699, _US),
        InstanceType(
            "gpu_8x_b200_sxm6", 8, "B200", "180 GB SXM6", 180, 208, 2900, 22528, 5352, _US
        ),
        InstanceType("gpu_8x_v100_n", 8, "Tesla V100", "16 GB", 16, 88, 448, 5939, 632, _US),
    )
}

_FAMILIES = {
    "lambda-stack-22-04": ("Lambda Stack 22.04", "22.4.5-2141", ("x86_64", "arm64")),
    "lambda-stack-24-04": ("Lambda Stack 24.04", "24.4.1-1980", ("x86_64", "arm64")),
    "gpu-base-22-04": ("GPU Base 22.04", "22.4.5-2141", ("x86_64",)),
    "ubuntu-lts": ("Ubuntu LTS", "24.04.01", ("x86_64", "arm64")),
}


def region(name: str) -> dict[str, str]:
    """A region as the API shows it."""
    return {"name": name, "description": REGIONS[name]}


def images() -> list[dict[str, Any]]:
    """Every image, once for each region and architecture, with an id that stays the same."""
    return [
        {
            "id": f"{number:04x}{position:04x}{architecture.encode().hex():0<24.24}",
            "created_time": "2026-09-01T00:00:00+00:00",
            "updated_time": "2026-10-01T00:00:00+00:00",
            "name": f"{family}-{version}",
            "description": description,
            "family": family,
            "version": version,
            "architecture": architecture,
            "region": region(name),
        }
        for number, (family, (description, version, architectures)) in enumerate(_FAMILIES.items())
        for architecture in architectures
        for position, name in enumerate(REGIONS)
    ]
