"""Lambda's offers: the cheapest that fits and has capacity, and a refusal that names what would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dayfly.errors import NoCapacity, SpecError
from dayfly.infra import lambda_offers
from dayfly.infra.lambda_offers import from_api
from dayfly.infra.lambda_records import FileSystem, TypeRow
from dayfly.infra.selection import Sold, from_catalog
from dayfly.infra.spec import Spec

A100 = TypeRow(
    "gpu_1x_a100", "A100 (40 GB PCIe)", 199, 30, 200, 512, 1, "x86_64", ("us-east-1", "us-west-2")
)
ROWS = [
    TypeRow("gpu_8x_a100", "A100 (40 GB SXM4)", 1592, 124, 1800, 6144, 8, "x86_64", ("us-east-1",)),
    A100,
    replace(A100, name="gpu_1x_a100_sxm4", price_cents_per_hour=209, regions=("asia-south-1",)),
    TypeRow("gpu_1x_a10", "A10 (24 GB PCIe)", 129, 30, 200, 1400, 1, "x86_64", ()),
    TypeRow("cpu_4x_general", "N/A", 20, 4, 16, 512, 0, "x86_64", ("us-west-1",)),
    TypeRow("gpu_1x_gh200", "GH200 (96 GB)", 229, 64, 432, 4096, 1, "arm64", ("us-east-1",)),
]
LIVE = from_api(ROWS, "2026-11-24")


def rungs(sold: Sequence[Sold] = LIVE, **options: Any) -> list[tuple[str, str]]:
    """The ladder of a Spec, as types and regions."""
    offers = lambda_offers.ladder(Spec(provider="lambda", **options), sold)
    return [(offer.instance_type, offer.region) for offer in offers]


def test_a_named_type_is_offered_wherever_it_has_capacity() -> None:
    """With its size, its GPU and a price of today."""
    first, second = lambda_offers.ladder(Spec(provider="lambda", instance_type="gpu_1x_a100"), LIVE)
    assert (first.region, second.region) == ("us-east-1", "us-west-2")
    assert (first.usd_per_hour, first.cores, first.memory_bytes) == (1.99, 30, 200 << 30)
    assert (first.gpus, first.gpu_model, first.gpu_memory_gb) == (1, "A100", 40.0)
    assert (first.arch, first.source, first.as_of) == ("x86_64", "Lambda Cloud API", "2026-11-24")


def test_a_named_type_in_a_named_region_is_tried_whatever_the_listing_says() -> None:
    """What it says of capacity is advice."""
    assert rungs(instance_type="gpu_1x_a100", region="us-east-2") == [("gpu_1x_a100", "us-east-2")]


def test_without_a_name_the_cheapest_with_capacity_comes_first() -> None:
    """The A10 is cheaper and nowhere; the one with eight GPUs would be a surprise on the bill."""
    assert rungs(gpu="A100:1") == [
        ("gpu_1x_a100", "us-east-1"),
        ("gpu_1x_a100", "us-west-2"),
        ("gpu_1x_a100_sxm4", "asia-south-1"),
    ]
    assert rungs(cores=8, memory="32GB")[0] == ("gpu_1x_a100", "us-east-1")
    assert rungs() == [("cpu_4x_general", "us-west-1")]


def test_a_region_narrows_the_ladder() -> None:
    """To types that say they have it there."""
    assert rungs(gpu="A100", region="us-west-2") == [("gpu_1x_a100", "us-west-2")]
    assert ("gpu_1x_gh200", "us-east-1") in rungs(cores=8, region="us-east-1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"instance_type": "gpu_1x_a100", "cores": 64},
            ["30 cores", "cores=64", "nearest that fits is gpu_1x_gh200 (64 cores"],
        ),
        (
            {"instance_type": "gpu_1x_a100", "memory": "400GB"},
            ["214.7 GB of memory", "gpu_1x_gh200"],
        ),
        (
            {"instance_type": "gpu_1x_a100", "gpu": "A100:8"},
            ["1 x A100 40 GB", "'A100:8'", "gpu_8x_a100"],
        ),
        ({"instance_type": "cpu_4x_general", "gpu": "A100"}, ["no GPU"]),
        ({"instance_type": "gpu_1x_a100", "cores": 999}, ["none of Lambda's"]),
        ({"instance_type": "gpu_1x_a10o"}, ["'gpu_1x_a10o'", "did you mean 'gpu_1x_a10'"]),
        ({"region": "us-eest-1"}, ["'us-eest-1'", "'us-east-1'"]),
        ({"cores": 999}, ["cores=999", "nearest is gpu_8x_a100 (124 cores"]),
        ({"disk": "90TB"}, ["disk=90.0 TB", "nearest is gpu_8x_a100"]),
        ({"gpu": "B300:64"}, ["gpu='B300:64'", "A100-40GB:8", "GH200-96GB:1"]),
        ({"gpu": "A100:16"}, ["A100-40GB:8"]),
        ({"cores": 999, "memory": "90TB"}, ["ask for less"]),
        ({"nodes": 33}, ["nodes=33", "at most 32"]),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options: dict[str, Any], words: list[str]) -> None:
    """Before money is spent, with the value and the nearest that fits."""
    with pytest.raises(SpecError) as refused:
        rungs(**options)
    for word in words:
        assert word in str(refused.value)


def test_a_model_that_is_sold_by_the_dozen_only_has_to_be_asked_for_so() -> None:
    """The catalog's only A100 of 80 GB comes eight at a time."""
    with pytest.raises(SpecError, match=r"8 at a time only.*gpu='A100-80GB:8'"):
        rungs(from_catalog("lambda"), gpu="A100-80GB")
    assert rungs(from_catalog("lambda"), gpu="A100-80GB:8") == [("gpu_8x_a100_80gb_sxm4", "any")]


def test_several_kinds_are_offered_in_the_order_in_which_they_are_asked_for() -> None:
    """Also where the first one is dearer; one that is not to be had is left out."""
    gh200_first = rungs(gpu="GH200,A100")
    assert gh200_first == [
        ("gpu_1x_gh200", "us-east-1"),
        ("gpu_1x_a100", "us-east-1"),
        ("gpu_1x_a100", "us-west-2"),
        ("gpu_1x_a100_sxm4", "asia-south-1"),
    ]
    assert rungs(gpu=["B300", "A100"]) == gh200_first[1:]
    assert rungs(gpu="A10:1,A100:8") == [("gpu_8x_a100", "us-east-1")]
    with pytest.raises(SpecError, match=r"8 at a time only.*gpu='A100-80GB:8'"):
        rungs(from_catalog("lambda"), gpu="A100-80GB,B300")


def test_a_range_of_memory_takes_any_model_within() -> None:
    """The cheapest first, and none that costs more than twice as much."""
    assert {name for name, _ in rungs(from_catalog("lambda"), gpu="24GB..48GB:2")} == {
        "gpu_2x_a6000"
    }
    assert rungs(from_catalog("lambda"), gpu="40GB..")[0] == ("gpu_1x_a6000", "any")
    assert ("gpu_1x_h100_sxm5", "any") not in rungs(from_catalog("lambda"), gpu="40GB..")
    # Each type once, though both kinds name it.
    assert rungs(gpu="A100,40GB..") == [*rungs(gpu="A100"), ("gpu_1x_gh200", "us-east-1")]


def test_no_capacity_anywhere_says_where_there_is_some() -> None:
    """Of machines that have enough of the rest."""
    with pytest.raises(NoCapacity) as refused:
        rungs(instance_type="gpu_1x_a10")
    assert "gpu_1x_a10 in any region" in str(refused.value)
    assert "gpu_1x_a100 in us-east-1, us-west-2 ($1.99/h)" in str(refused.value)
    with pytest.raises(NoCapacity, match="nothing else is free"):
        rungs([Sold(each.type, ()) for each in LIVE], gpu="A100")


def test_a_region_that_is_new_is_asked_for_before_it_is_refused() -> None:
    """The list in the package grows old."""
    spec = Spec(provider="lambda", instance_type="gpu_1x_a100", region="moon-north-1")
    with pytest.raises(SpecError, match="moon-north-1"):
        lambda_offers.ladder(spec, LIVE)
    (offer,) = lambda_offers.ladder(spec, LIVE, regions=lambda: ["moon-north-1"])
    assert offer.region == "moon-north-1"


def test_without_a_key_the_catalog_s_prices_are_offered_for_any_region() -> None:
    """With their source and date; one that only a look-up tells is no offer."""
    (offer,) = lambda_offers.ladder(
        Spec(provider="lambda", instance_type="gpu_1x_a100"), from_catalog("lambda")
    )
    assert (offer.region, offer.usd_per_hour, offer.as_of) == ("any", 1.99, "2026")
    assert "skypilot" in offer.source
    with pytest.raises(SpecError, match="LAMBDA_API_KEY"):
        rungs(from_catalog("lambda"), instance_type="gpu_2x_h100_sxm5")
    names = {name for name, _ in rungs(from_catalog("lambda"), gpu="H100:4")}
    assert names == {"gpu_8x_h100_sxm5"}


def _file_systems(**regions: str) -> list[FileSystem]:
    return [FileSystem(f"fs-{n}", n, r, f"/lambda/nfs/{n}") for n, r in regions.items()]


def test_file_systems_decide_the_region() -> None:
    """The machine has to be where they are."""
    there = _file_systems(data="us-west-2", models="us-west-2", old="us-east-1")

    def ladder(**options: Any) -> list[str]:
        spec = Spec(provider="lambda", instance_type="gpu_1x_a100", **options)
        return [o.region for o in lambda_offers.ladder(spec, LIVE, file_systems=lambda: there)]

    assert ladder(file_systems=["data", "models"]) == ["us-west-2"]
    assert ladder(file_systems=["data"], region="us-west-2") == ["us-west-2"]
    with pytest.raises(SpecError, match=r"no file system 'dat'; did you mean 'data'"):
        ladder(file_systems=["dat"])
    with pytest.raises(SpecError, match=r"data is in us-west-2, old is in us-east-1"):
        ladder(file_systems=["data", "old"])
    with pytest.raises(SpecError, match=r"region='us-east-1' is asked for"):
        ladder(file_systems=["data"], region="us-east-1")
    there.clear()
    with pytest.raises(SpecError, match="the account has none"):
        ladder(file_systems=["data"])


def test_a_gpu_is_read_from_its_description() -> None:
    """As the API words it; where it says no memory, the catalog does."""
    row = TypeRow("gpu_8x_v100_n", "Tesla V100 (16 GB)", 632, 88, 448, 5939, 8, "", ())
    (sold,) = from_api([row])
    assert (sold.type.gpu_model, sold.type.gpu_memory_gb, sold.type.arch) == (
        "V100",
        16.0,
        "x86_64",
    )
    (sold,) = from_api([replace(row, gpu_description="Tesla V100")])
    assert (sold.type.gpu_model, sold.type.gpu_memory_gb) == ("V100", 16.0)
