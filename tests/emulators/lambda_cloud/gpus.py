"""The GPUs of Lambda's types, as their driver names them."""

from __future__ import annotations

from tests.emulators import gpu
from tests.emulators.lambda_cloud.catalog import InstanceType

# As the driver names them, with the memory that it leaves: (model, form's last word) -> (name, MiB).
_NAMES = {
    ("RTX 6000", ""): ("Quadro RTX 6000", 24576),
    ("A6000", ""): ("NVIDIA RTX A6000", 49140),
    ("A10", "PCIe"): ("NVIDIA A10", 23028),
    ("A100", "PCIe"): ("NVIDIA A100-PCIE-40GB", 40960),
    ("A100", "SXM4"): ("NVIDIA A100-SXM4-{gib}GB", 0),
    ("H100", "PCIe"): ("NVIDIA H100 PCIe", 81559),
    ("H100", "SXM5"): ("NVIDIA H100 80GB HBM3", 81559),
    ("GH200", ""): ("NVIDIA GH200 480GB", 97871),
    ("B200", "SXM6"): ("NVIDIA B200", 183359),
    ("Tesla V100", ""): ("Tesla V100-SXM2-16GB", 16384),
}


def shown(type: InstanceType) -> gpu.Gpu | None:
    """What the driver says of a type's GPUs; None where it has none."""
    if not type.gpus:
        return None
    form = type.form.split(" GB")[1].strip()
    name, mib = _NAMES[type.gpu, form]
    return gpu.Gpu(
        name.format(gib=type.gpu_memory_gib), type.gpus, mib or type.gpu_memory_gib * 1024
    )
