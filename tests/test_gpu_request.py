"""What `gpu=` asks for, and which GPUs of price lists and drivers are of that kind."""

from __future__ import annotations

import pytest

from dayfly.errors import SpecError
from dayfly.infra.gpu_request import DriverGpu, GpuRequest


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("A100", GpuRequest("A100", 1, None)),
        ("A100:1", GpuRequest("A100", 1, None)),
        ("a100-80gb:8", GpuRequest("A100", 8, 80)),
        ("H100", GpuRequest("H100", 1, None)),
        ("RTX 6000:2", GpuRequest("RTX6000", 2, None)),
    ],
)
def test_a_request_is_read_as_people_write_it(text: str, request_: GpuRequest) -> None:
    """Model, memory of each where it matters, and how many."""
    assert GpuRequest.parse(text) == request_


@pytest.mark.parametrize(
    "text", ["A100:", "A100:0", "A100:x", ":1", "A100-80", "8xA100!", "A100:1:2"]
)
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    """Before money is spent."""
    with pytest.raises(SpecError, match="A100-80GB:8"):
        GpuRequest.parse(text)


@pytest.mark.parametrize(
    ("text", "model", "memory_gb", "fits"),
    [
        ("A100", "A100", 40, True),
        ("A100", "A100", 80, True),
        ("A100-80GB", "A100", 40, False),
        ("A100-80GB", "A100", 79.6, True),
        ("A10", "A100", 40, False),
        ("H100", "GH200", 96, False),
        ("RTX6000", "RTX 6000", 24, True),
    ],
)
def test_a_price_list_s_gpu_is_compared_by_model_and_memory(
    text: str, model: str, memory_gb: float, fits: bool
) -> None:
    """Memory only where it is asked for."""
    assert GpuRequest.parse(text).fits(model, memory_gb) is fits


@pytest.mark.parametrize(
    ("text", "line", "met"),
    [
        ("A100", "NVIDIA A100-SXM4-40GB, 40960", True),
        ("A100-80GB", "NVIDIA A100-SXM4-40GB, 40960", False),
        ("A100-80GB", "NVIDIA A100 80GB PCIe, 81920", True),
        ("A10", "NVIDIA A100-SXM4-40GB, 40960", False),
        ("A10", "NVIDIA A10G, 23028", False),
        ("A10", "NVIDIA A10, 23028", True),
        ("H100-80GB", "NVIDIA H100 80GB HBM3, 81559", True),
        ("RTX6000", "Quadro RTX 6000, 24576", True),
        ("V100", "Tesla V100-SXM2-16GB, 16384", True),
        ("A6000", "NVIDIA RTX A6000, 49140", True),
        ("A100", "NVIDIA A100-SXM4-40GB", True),
        ("A100-40GB", "NVIDIA A100-SXM4-40GB, [N/A]", False),
    ],
)
def test_a_driver_s_gpu_is_recognised_by_its_own_name(text: str, line: str, met: bool) -> None:
    """As nvidia-smi prints it; memory that the driver does not tell meets no request for some."""
    assert GpuRequest.parse(text).is_met_by(DriverGpu.of(line)) is met
