"""AWS's offers: from the catalog without credentials, else by AWS's own prices, in regions, zones and as spot machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

from dayfly.errors import NoCapacity, SpecError
from dayfly.infra import aws_offers, aws_prices, catalog, providers
from dayfly.infra.aws_errors import AwsError
from dayfly.infra.aws_ids import zone_of
from dayfly.infra.cost import worst_case_usd
from dayfly.infra.offers import Offer, today
from dayfly.infra.spec import Spec
from tests.emulators.aws import Aws, Fault, prices


@pytest.fixture(scope="module")
def world() -> Iterator[Aws]:
    """An account with prices; no machines are wanted."""
    with Aws(machines=False) as cloud:
        yield cloud


@pytest.fixture
def cloud(world: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """The same, as the environment tells of it."""
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    return world


def offers(**options: Any) -> list[Offer]:
    """The ladder of a Spec."""
    return aws_offers.ladder(Spec(provider="aws", **options))


def places(**options: Any) -> list[tuple[str, str, bool]]:
    """Type, place and way of each."""
    return [(o.instance_type, o.region, o.spot) for o in offers(**options)]


def test_without_credentials_it_is_the_catalog_s() -> None:
    """With its date and its source, and with what is billed beside the machine."""
    first, *_ = offers(gpu="A10G:1")
    known = catalog.machine_types("aws")["g5.xlarge"]
    assert (first.instance_type, first.region, first.as_of) == (
        "g5.xlarge",
        "us-east-1",
        known.as_of,
    )
    assert first.source.startswith(known.source)
    assert "with $0.0156 for 97 GB of disk and an address" in first.source
    # 97 GB at $0.08 for a month of 730 h, and an address at half a cent.
    assert first.usd_per_hour == pytest.approx(1.006 + 97 * 0.08 / 730 + 0.005, abs=1e-6)


def test_a_machine_without_a_gpu_is_the_cheapest_that_is_large_enough() -> None:
    """And starts from a smaller disk."""
    first = offers(cores=4)[0]
    assert (first.instance_type, first.gpus) == ("m7i.xlarge", 0)
    assert first.usd_per_hour == pytest.approx(0.2016 + 40 * 0.08 / 730 + 0.005, abs=1e-6)


def test_another_region_s_price_is_said_to_be_that() -> None:
    """The catalog has one region's."""
    first = offers(gpu="A10G:1", region="eu-west-1")[0]
    assert first.region == "eu-west-1"
    assert "price of us-east-1" in first.source


@pytest.mark.parametrize("region", ["mars", "us-east", "us-east-1ab", "US-EAST-1"])
def test_what_is_no_region_is_refused(region: str) -> None:
    """With what one looks like."""
    with pytest.raises(SpecError, match="us-east-1b"):
        offers(region=region)


def test_spot_without_a_price_says_what_would_tell_it() -> None:
    """They move by the hour, so that the catalog has hardly any."""
    with pytest.raises(
        SpecError, match=r"g5\.xlarge.* are only known live; set up AWS credentials"
    ):
        offers(gpu="A10G:1", spot=True)


def test_any_region_is_every_one_that_the_account_has(cloud: Aws) -> None:
    """The cheapest first, the one that is set up here before others of its price; EC2 finds the zone."""
    found = offers(instance_type="g5.xlarge")
    assert [o.region for o in found] == ["us-east-1", "us-east-2", "eu-west-1"]
    assert {(o.source.partition(";")[0], o.as_of) for o in found} == {(aws_prices.LIST, today())}
    assert found[2].usd_per_hour > found[1].usd_per_hour == found[0].usd_per_hour


def test_the_region_that_is_set_up_comes_first(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that cost the same."""
    monkeypatch.setenv("AWS_REGION", "us-east-2")
    assert places(instance_type="g5.xlarge")[0][1] == "us-east-2"


def test_a_setting_keeps_runs_to_some_regions(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is asked for then."""
    monkeypatch.setenv("DAYFLY_AWS_REGIONS", "eu-west-1")
    assert [place for _, place, _ in places(instance_type="g5.xlarge")] == ["eu-west-1"]


def test_the_zones_of_a_named_region_are_the_rungs(cloud: Aws) -> None:
    """Those that sell it; a zone that is named is the only one."""
    zones = cloud.zones("us-east-1", "g5.xlarge")
    assert len(zones) > 2
    assert places(instance_type="g5.xlarge", region="us-east-1") == [
        ("g5.xlarge", zone, False) for zone in zones
    ]
    assert places(instance_type="g5.xlarge", region=zones[1]) == [("g5.xlarge", zones[1], False)]


def test_a_region_that_the_account_cannot_use_is_refused(cloud: Aws) -> None:
    """With those that it can."""
    with pytest.raises(SpecError, match="eu-west-1, us-east-1, us-east-2"):
        offers(instance_type="g5.xlarge", region="us-west-2")


def test_spot_prices_are_those_of_zones(cloud: Aws) -> None:
    """The cheapest zone first, from EC2's own history."""
    found = offers(instance_type="g5.xlarge", region="us-east-1", spot=True)
    assert [o.spot for o in found] == [True] * len(found)
    cost = [o.usd_per_hour for o in found]
    assert cost == sorted(cost)
    beside = aws_prices.beside_usd_per_hour(97)
    price = prices.spot("g5.xlarge", found[0].region)
    assert price is not None
    assert cost[0] == pytest.approx(1.2 * price + beside, abs=1e-6)
    assert "at most 1.2 times the spot price of now" in found[0].source
    # The worst case is one: for more than that there is no machine.
    spec = Spec(provider="aws", instance_type="g5.xlarge", spot=True, max_runtime="1h")
    assert worst_case_usd(spec, found[0]) == pytest.approx(cost[0])
    assert found[0].source.startswith(aws_prices.SPOT_HISTORY)


def test_a_local_zone_is_no_rung(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the spot history, nor of those that sell a type: it has other networks and images."""
    lax, real = "us-east-1-bos-1a", prices.spot
    known = INSTANCE_TYPE_OFFERINGS["availability-zone"]["us-east-1"]
    offered = {"InstanceType": "g5.xlarge", "Location": lax}
    monkeypatch.setitem(
        INSTANCE_TYPE_OFFERINGS["availability-zone"], "us-east-1", [*known, offered]
    )
    monkeypatch.setattr(prices, "spot", lambda t, z: 0.01 if z == lax else real(t, z))
    assert lax in cloud.zones("us-east-1", "g5.xlarge")
    found = places(instance_type="g5.xlarge", region="us-east-1", spot="prefer")
    assert found
    assert all(zone_of(place) is not None for _, place, _ in found)


def test_preferred_spot_comes_before_the_same_on_demand(cloud: Aws) -> None:
    """All zones of the one, then all of the other."""
    ways = [
        spot for _, _, spot in places(instance_type="g5.xlarge", region="us-east-1", spot="prefer")
    ]
    assert ways == sorted(ways, reverse=True)
    assert set(ways) == {True, False}


def test_a_list_of_prices_that_cannot_be_had_leaves_the_catalog_s_and_says_so(cloud: Aws) -> None:
    """Who may launch may not be allowed to read it."""
    cloud.fault(Fault("GetProducts", "AccessDeniedException", "not authorized to perform", times=9))
    try:
        first = offers(instance_type="g5.xlarge", region="us-east-1")[0]
    finally:
        cloud.clear_faults()
    known = catalog.machine_types("aws")["g5.xlarge"]
    assert first.as_of == known.as_of
    assert "AWS's own list of prices could not be had (AccessDeniedException)" in first.source


def test_a_list_of_prices_that_is_not_as_documented_is_no_price(
    cloud: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a crash: the error names what was looked up."""
    monkeypatch.setattr(
        prices, "products", lambda _: ['{"product": {}, "terms": {"OnDemand": {"x": {}}}}']
    )
    with pytest.raises(AwsError, match=r"what g5\.xlarge costs"):
        aws_prices.on_demand(["g5.xlarge"])


def test_a_type_that_the_catalog_does_not_have_is_described_by_ec2(
    cloud: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its size, its GPU and its price."""
    monkeypatch.setattr(aws_prices, "on_demand", lambda *_: {("g6.4xlarge", "us-east-1"): 1.3232})
    (first,) = offers(instance_type="g6.4xlarge", region="us-east-1a")
    assert (first.cores, first.memory_bytes) == (16, 64 << 30)
    assert (first.gpus, first.gpu_model, first.arch) == (1, "L4", "x86_64")


def test_a_type_that_nobody_has_is_refused_with_like_names(cloud: Aws) -> None:
    """EC2 says that there is none."""
    with pytest.raises(SpecError, match=r"no instance_type 'g5\.xlarg'; did you mean 'g5\.xlarge'"):
        offers(instance_type="g5.xlarg")


def test_what_is_sold_nowhere_of_where_it_may_be_is_no_capacity(
    cloud: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next provider's turn."""
    monkeypatch.setattr(aws_prices, "on_demand", lambda *_: {})
    with pytest.raises(NoCapacity, match="none of us-east-1"):
        offers(instance_type="g5.xlarge")


def test_the_price_list_is_the_home_region_s(cloud: Aws) -> None:
    """On demand and spot, each at a price of now."""
    listed = providers.load("aws").price_list()
    assert {o.region for o in listed if not o.spot} == {"us-east-1"}
    assert {o.region[:-1] for o in listed if o.spot} == {"us-east-1"}
    assert {o.as_of for o in listed} == {today()}
