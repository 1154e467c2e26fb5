"""The GPUs that an instance shows: those of its type, through the stand-ins of `tests.emulators.gpu`."""

from __future__ import annotations

import sys
from pathlib import Path

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


def furnish(folder: Path, type: InstanceType, lie: str = "") -> None:
    """Puts `nvidia-smi` and the driver's library into the tools of an instance, if its type has GPUs.

    Args:
        folder: the tools, as this computer sees them.
        type: says which GPUs.
        lie: one of `gpu.LIES`, "" for the truth.

    """
    if type.gpus:
        # Not this process's own interpreter: a virtual environment may be where the instance does not see it.
        python = str(Path(sys.base_prefix) / "bin/python3")
        gpu.furnish(folder, shown(type), lie, python=python)


def check(type: InstanceType, lie: str) -> None:
    """Before it is told.

    Raises:
        ValueError: there is no such lie, or no GPU that could tell it.
    """
    check_name(lie)
    if lie and not type.gpus:
        raise ValueError(f"{type.name} has no GPU that could lie")


def check_name(lie: str) -> None:
    """Refuses what is no lie.

    Raises:
        ValueError: names those that there are.
    """
    if lie and lie not in gpu.LIES:
        raise ValueError(f"no lie {lie!r}; known: {', '.join(sorted(gpu.LIES))}")


def shown(type: InstanceType) -> gpu.Gpu:
    """What the driver says of a type's GPUs."""
    form = type.form.split(" GB")[1].strip()
    name, mib = _NAMES[type.gpu, form]
    return gpu.Gpu(
        name.format(gib=type.gpu_memory_gib), type.gpus, mib or type.gpu_memory_gib * 1024
    )
