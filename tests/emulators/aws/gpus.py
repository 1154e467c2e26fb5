"""The GPUs of EC2's types, as their driver names them."""

from __future__ import annotations

from dayfly.infra import catalog
from tests.emulators import gpu

# As the driver names them, with the memory that it leaves, in MiB.
_NAMES = {
    "T4": ("Tesla T4", 15360),
    "A10G": ("NVIDIA A10G", 23028),
    "L4": ("NVIDIA L4", 23034),
    "L40S": ("NVIDIA L40S", 46068),
    "RTXPRO6000": ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887),
    "A100": ("NVIDIA A100-SXM4-{gb}GB", 0),
    "H100": ("NVIDIA H100 80GB HBM3", 81559),
    "H200": ("NVIDIA H200", 143771),
    "B200": ("NVIDIA B200", 183359),
}


def shown(type: str) -> gpu.Gpu | None:
    """What the driver says of a type's GPUs; None where it has none."""
    kind = catalog.machine_types("aws").get(type)
    if kind is None or not kind.gpus:
        return None
    name, mib = _NAMES[kind.gpu_model]
    gb = int(kind.gpu_memory_gb)
    return gpu.Gpu(name.format(gb=gb), kind.gpus, mib or gb * 1024)
