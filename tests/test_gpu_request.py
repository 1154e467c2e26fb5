"""What `gpu=` asks for, and which GPUs of price lists and drivers are of that kind."""

from __future__ import annotations

import math

import pytest

from dayfly.errors import SpecError
from dayfly.infra.gpu_request import DriverGpu, GpuRequest


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("A100", [GpuRequest("A100")]),
        ("A100:1", [GpuRequest("A100")]),
        ("a100-80gb:8", [GpuRequest("A100", 8, 80, 80)]),
        ("RTX 6000:2", [GpuRequest("RTX6000", 2)]),
        ("RTX-PRO-6000", [GpuRequest("RTXPRO6000")]),
        ("RTX-PRO-6000-96GB", [GpuRequest("RTXPRO6000", 1, 96, 96)]),
        ("H100-141GB", [GpuRequest("H100", 1, 141, 141)]),
        ("H100-NVL", [GpuRequest("H100NVL")]),
        ("24GB", [GpuRequest("", 1, 24)]),
        ("24GB..", [GpuRequest("", 1, 24)]),
        ("24GB..48GB:2", [GpuRequest("", 2, 24, 48)]),
        ("..48GB", [GpuRequest("", 1, 0, 48)]),
        ("H100,A100-80GB", [GpuRequest("H100"), GpuRequest("A100", 1, 80, 80)]),
        ("H100:4, A100:8", [GpuRequest("H100", 4), GpuRequest("A100", 8)]),
        ("A100,a100", [GpuRequest("A100")]),
    ],
)
def test_a_request_is_read_as_people_write_it(text: str, kinds: list[GpuRequest]) -> None:
    """Model, memory of each where it matters, and how many; the preferred kind first."""
    assert GpuRequest.parse(text) == tuple(kinds)


@pytest.mark.parametrize(
    "text",
    [
        *("A100:", "A100:0", "A100:x", ":1", "A100-80", "8xA100!", "A100:1:2", "", "A100,", ","),
        *("..", "..:2", "48GB..24GB", "24..48GB", "24GB:0", "A100:99999", "0GB", "A100-0GB"),
    ],
)
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    """Before money is spent."""
    with pytest.raises(SpecError, match="A100-80GB:8") as refused:
        GpuRequest.parse(text)
    assert repr(text) in str(refused.value)


def test_a_number_for_some_kinds_only_is_refused() -> None:
    """One H100, or eight of those as well? A guess would be a surprise on the bill."""
    with pytest.raises(SpecError, match=r"how many H100 .*H100:1"):
        GpuRequest.parse("H100,A100-80GB:8")


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
        ("H100", "H100-NVL", 94, True),
        ("H100-80GB", "H100-NVL", 94, False),
        ("H100-NVL", "H100-NVL", 94, True),
        ("H100-NVL", "H100", 80, False),
        ("24GB", "L4", 24, True),
        ("24GB", "L4", 22.4, False),
        ("44GB..", "A100", 40, False),
        ("24GB", "H100", 80, True),
        ("24GB", "T4", 16, False),
        ("24GB..48GB", "L40S", 48, True),
        ("24GB..48GB", "A100", 80, False),
        ("..24GB", "A10", 24, True),
        ("..24GB", "A10", 0, False),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB", 80, True),
        ("RTX-4090", "NVIDIA GeForce RTX 4090", 24, True),
    ],
)
def test_a_price_list_s_gpu_is_compared_by_model_and_memory(
    text: str, model: str, memory_gb: float, fits: bool
) -> None:
    """By any name in its full one; memory only where it is asked for, and what nobody knows meets no request for some."""
    (kind,) = GpuRequest.parse(text)
    assert kind.fits(model, memory_gb) is fits


@pytest.mark.parametrize(
    ("text", "line", "met"),
    [
        ("A100", "NVIDIA A100-SXM4-40GB, 40960", True),
        ("A100-80GB", "NVIDIA A100-SXM4-40GB, 40960", False),
        ("A100-80GB", "NVIDIA A100 80GB PCIe, 81920", True),
        ("A10", "NVIDIA A100-SXM4-40GB, 40960", False),
        ("A10", "NVIDIA A10G, 23028", False),
        ("A10", "NVIDIA A10, 23028", True),
        ("A10-24GB", "NVIDIA A10, 22731", True),
        ("H100-80GB", "NVIDIA H100 80GB HBM3, 81559", True),
        ("H100-NVL", "NVIDIA H100 NVL, 95830", True),
        ("H100-NVL", "NVIDIA H100 80GB HBM3, 81559", False),
        ("RTX6000", "Quadro RTX 6000, 24576", True),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition, 97887", True),
        ("V100", "Tesla V100-SXM2-16GB, 16384", True),
        ("A6000", "NVIDIA RTX A6000, 49140", True),
        ("A100", "NVIDIA A100-SXM4-40GB", True),
        ("A100-40GB", "NVIDIA A100-SXM4-40GB, [N/A]", False),
        ("24GB..48GB", "NVIDIA A10, 23028", True),
        ("24GB", "Tesla T4, 15360", False),
        ("16GB", "Tesla T4, 15360", True),
        ("44GB..", "NVIDIA A100-SXM4-40GB, 40960", False),
    ],
)
def test_a_driver_s_gpu_is_recognised_by_its_own_name(text: str, line: str, met: bool) -> None:
    """As nvidia-smi prints it; memory that the driver does not tell meets no request for some."""
    (kind,) = GpuRequest.parse(text)
    assert kind.is_met_by(DriverGpu.of(line)) is met


def test_memory_without_end_is_any() -> None:
    """So that a model alone is found where nobody tells its memory."""
    (kind,) = GpuRequest.parse("A100")
    assert (kind.least_gb, kind.most_gb) == (0, math.inf)
    assert kind.fits("A100", 0)
