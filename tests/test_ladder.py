"""The ladder: one rung after another, and what a refusal says of other regions comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dayfly.errors import ProvisionFailed
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.stacks.ladder import Ladder

_CODE = "[code instance-operations/launch/insufficient-capacity]"


def _offer(region: str, instance_type: str = "gpu_1x_a100") -> Offer:
    return Offer("lambda", region, instance_type, 30, 1 << 30, 1.99)


def _miss(words: str = "") -> ProvisionFailed:
    return ProvisionFailed(f"Not enough capacity. {words} {_CODE}", "capacity")


def _rest(ladder: Ladder) -> list[str]:
    found = []
    while (offer := ladder.next()) is not None:
        found.append(f"{offer.instance_type} {offer.region}")
    return found


@pytest.fixture
def ladder() -> Ladder:
    """Of four rungs."""
    offers = [_offer("us-east-1"), _offer("us-west-1"), _offer("us-west-2"), _offer("x", "big")]
    return Ladder(Spec(provider="lambda"), offers)


def test_rungs_are_tried_in_order_and_refusals_are_kept(ladder: Ladder) -> None:
    """For the message when all have failed."""
    first = ladder.next()
    assert first is not None
    ladder.refused(first, _miss())
    assert ladder.refusals == [f"gpu_1x_a100 in lambda/us-east-1: Not enough capacity.  {_CODE}"]
    assert _rest(ladder) == ["gpu_1x_a100 us-west-1", "gpu_1x_a100 us-west-2", "big x"]


def test_regions_that_the_refusal_names_come_first(ladder: Ladder) -> None:
    """Also one that the listing did not have; what was refused already does not come back."""
    first = ladder.next()
    assert first is not None
    ladder.refused(first, _miss("Available in: us-south-1, us-west-2, us-east-1."))
    assert _rest(ladder) == [
        "gpu_1x_a100 us-south-1",
        "gpu_1x_a100 us-west-2",
        "gpu_1x_a100 us-west-1",
        "big x",
    ]


def test_a_place_that_a_refusal_names_has_its_own_price() -> None:
    """A spot machine costs something else in each zone: one of which no price is known is not taken at another's."""
    zones = [replace(_spot(zone), usd_per_hour=usd) for zone, usd in (("a", 1.0), ("b", 5.0))]
    first, second = zones
    ladder = Ladder(Spec(provider="aws", spot=True), zones)
    assert ladder.next() == first
    words = "choosing us-east-1b, us-east-1c. api error InsufficientInstanceCapacity: none"
    ladder.refused(first, ProvisionFailed(words, "capacity"))
    assert (ladder.next(), ladder.next()) == (second, None)


def _spot(zone: str) -> Offer:
    return replace(_offer(f"us-east-1{zone}"), provider="aws", spot=True)


@pytest.mark.parametrize(
    "spec",
    [Spec(provider="lambda", region="us-east-1"), Spec(provider="lambda", file_systems=["d"])],
)
def test_a_region_that_was_asked_for_is_never_left(spec: Spec) -> None:
    """Nor the one in which the file systems are."""
    ladder = Ladder(spec, [_offer("us-east-1")])
    first = ladder.next()
    assert first is not None
    ladder.refused(first, _miss("Available in: us-west-2."))
    assert ladder.next() is None


_GLOBAL = "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally."
_REGIONAL = "Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 0.0 in region us-central1."


@pytest.mark.parametrize(
    ("said", "rest"),
    [
        (_GLOBAL, ["gpu_1x_a100 us-east-1"]),
        (_REGIONAL, ["spot us-central1-c", "t4 us-west1-a", "gpu_1x_a100 us-east-1"]),
    ],
)
def test_what_a_quota_holds_for_is_not_tried(said: str, rest: list[str]) -> None:
    """A region's: neither are its other zones, as far as they are bought in the same way; a project's: nor is anything else there."""
    gcp = Offer("gcp", "us-central1-a", "t4", 8, 1 << 30, 0.7)
    offers = [
        gcp,
        replace(gcp, region="us-central1-b"),
        replace(gcp, region="us-central1-c", instance_type="spot", spot=True),
        replace(gcp, region="us-west1-a"),
        _offer("us-east-1"),
    ]
    ladder = Ladder(Spec(provider=["gcp", "lambda"]), offers)
    first = ladder.next()
    assert first is not None
    ladder.refused(first, ProvisionFailed(said, "quota"))
    assert _rest(ladder) == rest
