"""Azure's offers: from the catalog, or by the prices of just now; and what of a Spec is refused before anything exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError, NoCapacity, SpecError
from dayfly.infra import (
    azure_account,
    azure_beside,
    azure_endpoint,
    azure_images,
    azure_prices,
    azure_skus,
    catalog,
    providers,
)
from dayfly.infra.azure_api import AzureApi
from dayfly.infra.offers import Offer, today
from dayfly.infra.spec import Spec
from dayfly.runtime.gpu import is_model
from tests.emulators.azure import Emulator, Options
from tests.emulators.azure.machine import gpu_of
from tests.emulators.azure.refusal import ArmError
from tests.emulators.azure.server import Server

AZURE = providers.load("azure")


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator, whose price list has three regions, as the environment tells of it."""
    with Emulator(Options(machines=False)) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def _offers(**fields: Any) -> list[Offer]:
    return list(AZURE.offers(Spec(provider="azure", **fields)))


def test_without_a_log_in_the_catalog_s_prices_are_told_with_their_date() -> None:
    """In the region that they are of, and said so where another one is asked for."""
    first = _offers(gpu="T4:1")[0]
    assert (first.instance_type, first.region) == ("Standard_NC4as_T4_v3", "eastus")
    assert first.usd_per_hour == pytest.approx(0.526 + 9.6 / 730 + 0.005)
    assert (
        first.source == "table verified late 2026; with $0.0182 for 128 GB of disk and an address"
    )
    assert "2026, in eastus; with" in _offers(gpu="T4:1", region="westeurope")[0].source
    larger = _offers(gpu="T4:1", disk="200GB")[0]
    assert larger.usd_per_hour == pytest.approx(0.526 + 19.2 / 730 + 0.005)


def test_with_a_log_in_they_are_those_of_just_now_in_every_region(azure: Emulator) -> None:
    """Of Linux machines alone; spot first where that is preferred."""
    offers = _offers(instance_type="Standard_NC24ads_A100_v4", spot="prefer")
    assert [(o.region, o.spot) for o in offers] == [
        *(("eastus", True), ("westus2", True), ("westeurope", True)),
        *(("eastus", False), ("westus2", False), ("westeurope", False)),
    ]
    beside = azure_beside.usd_per_hour(128)
    assert [o.usd_per_hour - beside for o in offers[3:]] == pytest.approx(
        [3.673, 4.0403, 4.4076], abs=1e-6
    )
    # Of a spot machine it is what is paid at most, so that a worst case is one.
    (spot,) = {
        round(price.spot_usd_per_hour or 0, 6)
        for price in azure_prices.look_up(["Standard_NC24ads_A100_v4"], "eastus")
    }
    assert offers[0].usd_per_hour - beside == pytest.approx(1.2 * spot, abs=1e-6)
    assert "at most 1.2 times the spot price of now" in offers[0].source
    spec = Spec(provider="azure", spot=True)
    assert azure_beside.most_for_machine(spec, offers[0]) == pytest.approx(1.2 * spot, abs=1e-5)
    assert all(o.source.startswith(azure_prices.SOURCE) for o in offers)
    assert {o.as_of for o in offers} == {today()}
    assert {o.region for o in _offers(gpu="T4:1", region="westus2")} == {"westus2"}


def test_a_price_list_has_every_type_in_every_region_over_all_pages(azure: Emulator) -> None:
    """As `dayfly offers` shows it."""
    types = catalog.machine_types("azure").values()
    ways = sum(1 + (each.spot_usd_per_hour is not None) for each in types)
    assert len(AZURE.price_list()) == 3 * ways
    prices = [path for _, path in azure.requests if path == "/api/retail/prices"]
    assert len(prices) == 2


def test_prices_that_cannot_be_had_leave_the_catalog_s_with_a_note(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is not held up by a price list."""
    monkeypatch.setattr(Server, "prices_status", 503)
    (offer, *_) = _offers(gpu="T4:1")
    assert offer.usd_per_hour == pytest.approx(0.526 + azure_beside.usd_per_hour(128))
    assert "; no live price: Azure retail prices API: 503" in offer.source


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"Items": [{"armSkuName": "x"}]}, "an entry without"),
        ({"Rows": []}, "an answer without Items"),
        (
            {"Items": [], "NextPageLink": "https://elsewhere.example/prices"},
            "next page is elsewhere",
        ),
    ],
)
def test_an_answer_that_is_not_as_documented_is_no_price(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], said: str
) -> None:
    """It is told what of it."""
    monkeypatch.setattr("tests.emulators.azure.prices.Prices.page", lambda *_: answer)
    with pytest.raises(azure_prices.PricesUnavailable, match=said):
        azure_prices.look_up(["Standard_NC4as_T4_v3"], None)


def test_a_region_that_does_not_sell_a_type_is_named(azure: Emulator) -> None:
    """With the command that shows who does."""
    with pytest.raises(SpecError, match=r"region='japaneast'.*az vm list-skus"):
        _offers(gpu="T4:1", region="japaneast")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """One whose subscription may not have a T4 in the cheapest region."""
    options = Options(
        machines=False,
        closed=tuple(f"Standard_NC{n}as_T4_v3@eastus" for n in (4, 8, 16, 64)),
    )
    with Emulator(options) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def test_a_region_that_the_subscription_may_not_use_is_no_rung(closed: Emulator) -> None:
    """By its own list of what it is sold; where nothing is left that is said, with where to ask."""
    offers = _offers(gpu="T4:1")
    assert {o.region for o in offers} == {"westus2", "westeurope"}
    assert "not known" not in offers[0].source
    assert _offers(gpu="A100:1", region="eastus")
    with pytest.raises(NoCapacity, match=r"may not use Standard_NC4as_T4_v3 in eastus.*list-skus"):
        _offers(gpu="T4:1", region="eastus")
    asked = [path for _, path in closed.requests if path.endswith("/skus")]
    assert len(asked) >= 3


def test_what_is_sold_cannot_be_asked_is_said(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role without that right costs the check alone; the rung is tried, and the price says so."""

    def refuse(*_: object) -> Iterator[Any]:
        raise ArmError(403, "AuthorizationFailed", "no Microsoft.Compute/skus/read")

    monkeypatch.setattr("tests.emulators.azure.skus.rows", refuse)
    (first, *_) = _offers(gpu="T4:1")
    assert first.region == "eastus"
    assert "may use the region is not known: AuthorizationFailed" in first.source


def test_what_the_real_list_says_is_kept_for_an_hour(
    azure: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of thousands of rows are not read for every call."""
    api = AzureApi.from_environment()
    assert list(api.skus("eastus"))  # Its client is made while it is an emulator's.
    monkeypatch.setattr(azure_endpoint, "is_emulated", lambda: False)
    monkeypatch.setattr(
        "dayfly.infra.azure_skus.platformdirs.user_cache_path", lambda _: tmp_path / "cache"
    )
    first = azure_skus.places(api, None, 1000.0)
    assert "westeurope" in first["Standard_NC4as_T4_v3"]
    asked = len(azure.requests)
    assert azure_skus.places(api, None, 4000.0) == first
    assert len(azure.requests) == asked
    azure_skus.places(api, None, 5000.0)
    assert len(azure.requests) > asked


@pytest.mark.parametrize(
    "code", ["LocationNotAvailableForResourceGroup", "RequestDisallowedByAzure"]
)
def test_a_region_that_is_refused_is_out_and_the_ladder_goes_on(code: str) -> None:
    """For all types and both ways of buying; other regions are not."""
    error = f'Status=403 Code="{code}" Message="..."'
    tried, a100 = _offers(gpu="T4:1")[0], _offers(gpu="A100:1")[0]
    assert AZURE.failure(error) == "quota"
    assert AZURE.rules_out(error, tried, a100)
    assert AZURE.rules_out(error, tried, replace(a100, spot=True))
    assert not AZURE.rules_out(error, tried, replace(tried, region="westus2"))


def test_what_cannot_be_is_refused_with_what_can() -> None:
    """Before any money is spent."""
    for fields, said in (
        ({"region": "us-east-1"}, "no region 'us-east-1'; "),
        ({"instance_type": "Standard_NC4as_T4"}, "Standard_NC4as_T4_v3"),
        ({"instance_type": "Standard_NV36ads_A10_v5"}, "GRID"),
        ({"gpu": "A10:1"}, "Azure has T4-16GB:1"),
        ({"image": "ubuntu"}, "PUBLISHER:OFFER:SKU:VERSION"),
        ({"nodes": 201}, "at most 200"),
        ({"gpu": "T4:1", "disk": "4095GB"}, None),
        ({"gpu": "T4:1", "disk": "5000GB"}, "disk="),
    ):
        if said is None:
            assert _offers(**fields)
            continue
        with pytest.raises(SpecError, match=said):
            _offers(**fields)


def test_an_image_of_one_s_own_runs_what_the_default_one_cannot() -> None:
    """A part of an A10, say."""
    gallery = (
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/x/images/grid"
    )
    (offer,) = _offers(gpu="A10:1", image=gallery)
    assert offer.instance_type == "Standard_NV36ads_A10_v5"
    spec = Spec(provider="azure", image=gallery)
    assert azure_images.reference(spec, offer) == {"id": gallery}
    community = "/CommunityGalleries/c/Images/i/Versions/1.0.0"
    found = azure_images.reference(Spec(provider="azure", image=community), offer)
    assert found == {"community_gallery_image_id": community}


def test_the_image_has_a_driver_where_there_is_a_gpu() -> None:
    """And is Canonical's own where there is none; the disk is large enough for either."""
    spec = Spec(provider="azure")
    gpu = _offers(gpu="T4:1")[0]
    plain = Offer("azure", "eastus", "Standard_D4s_v5", 4, 16 << 30, 0.192)
    assert azure_images.reference(spec, gpu)["offer"] == "ubuntu-hpc"
    assert azure_images.reference(spec, plain)["publisher"] == "Canonical"
    assert azure_images.disk_gb(spec, gpu) == 128
    assert azure_images.disk_gb(spec, plain) == 64
    assert azure_images.disk_gb(Spec(provider="azure", disk="500GB"), gpu) == 466 + 40


@pytest.mark.parametrize("name", sorted(catalog.machine_types("azure")))
def test_the_emulator_s_gpus_are_those_of_the_catalog(name: str) -> None:
    """So that a machine which is what was paid for is taken for that."""
    size = catalog.machine_types("azure")[name]
    shown = gpu_of(size)
    assert shown is not None
    assert is_model(size.gpu_model, shown.model)
    assert shown.memory_mib >= 0.93 * size.gpu_memory_gb * 1e9 / (1 << 20)


def test_what_is_missing_of_an_account_is_told_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Without a request."""
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = azure_account.missing()
    assert first.startswith("AZURE_SUBSCRIPTION_ID is not set")
    assert "az login" in second
    assert not AZURE.is_configured()
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "pay-as-you-go")
    assert "'pay-as-you-go' is not the id" in azure_account.missing()[0]
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "6f1d2c3b-0000-4a5e-9b7c-0123456789ab")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID"):
        monkeypatch.setenv(name, "x")
    assert len(azure_account.missing()) == 1
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "x")
    assert azure_account.missing() == []
    assert AZURE.is_configured()


def test_a_log_in_of_the_az_command_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Where both the command and its profile are there."""
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "6f1d2c3b-0000-4a5e-9b7c-0123456789ab")
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "azureProfile.json").write_text("{}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(azure_account.missing()) == 1
    command = tmp_path / "az"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    assert azure_account.missing() == []


@pytest.mark.parametrize(
    ("url", "scale", "said"),
    [
        ("https://example.com", "", "an emulator on this computer"),
        ("http://192.168.0.1", "", "an emulator on this computer"),
        ("", "10", "for emulators only"),
        ("http://127.0.0.1:1", "0.5", "at least 1"),
        ("http://127.0.0.1:1", "soon", "at least 1"),
    ],
)
def test_an_override_is_for_an_emulator_alone(
    monkeypatch: pytest.MonkeyPatch, url: str, scale: str, said: str
) -> None:
    """No token goes anywhere else."""
    monkeypatch.setenv("DAYFLY_AZURE_URL", url)
    monkeypatch.setenv("DAYFLY_AZURE_TIME_SCALE", scale)
    with pytest.raises(ConfigurationError, match=said):
        azure_endpoint.time_scale()
        azure_endpoint.base_url()


def test_a_quota_rules_out_what_it_is_of() -> None:
    """One region's: of one family, of all, or of all spot machines."""
    error = 'Code="OperationNotAllowed" Message="... exceeding approved standardNCASv3_T4Family Cores quota"'
    tried = _offers(gpu="T4:1")[0]
    larger = replace(tried, instance_type="Standard_NC8as_T4_v3")
    a100 = _offers(gpu="A100:1")[0]
    assert AZURE.rules_out(error, tried, larger)
    assert not AZURE.rules_out(error, tried, a100)
    assert not AZURE.rules_out(error, tried, replace(larger, region="westus2"))
    assert not AZURE.rules_out(error, tried, replace(larger, spot=True))
    assert AZURE.rules_out("exceeding approved Total Regional Cores quota", tried, a100)
    spot = replace(tried, spot=True)
    assert AZURE.rules_out(
        "exceeding approved LowPriorityCores quota", spot, replace(a100, spot=True)
    )
