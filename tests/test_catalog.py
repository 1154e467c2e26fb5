"""The price catalog: every row whole, with a source and a date; what nobody knows is left open."""

from __future__ import annotations

import re

import pytest

from dayfly.infra import catalog, providers
from dayfly.infra.gpu_request import GpuRequest


def test_every_row_is_whole() -> None:
    """A price, where there is one, has a source and a date."""
    rows = catalog.all_types()
    assert len(rows) >= 100
    assert len({(row.provider, row.name, row.region) for row in rows}) == len(rows)
    for row in rows:
        assert row.cores > 0
        assert row.memory_bytes >= 8 << 30
        assert row.arch in ("x86_64", "arm64")
        assert (row.gpus > 0) == bool(row.gpu_model) == (row.gpu_memory_gb > 0)
        assert row.source
        assert re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", row.as_of)
        assert row.usd_per_hour is None or row.usd_per_hour > 0
        assert row.spot_usd_per_hour is None or row.usd_per_hour is not None
        assert (row.spot_usd_per_hour or 0) < (row.usd_per_hour or 1)


def test_every_model_can_be_asked_for_by_its_name() -> None:
    """As the table shows it, with its memory and its number."""
    for row in catalog.all_types():
        if row.gpus:
            text = f"{row.gpu_model}-{row.gpu_memory_gb:.0f}GB:{row.gpus}"
            (kind,) = GpuRequest.parse(text)
            assert kind.fits(row.gpu_model, row.gpu_memory_gb), text


def test_a_price_that_only_a_look_up_tells_is_none() -> None:
    """Rather than an old one that is known to be too low."""
    rows = catalog.machine_types("lambda")
    assert len(rows) == 19
    assert rows["gpu_1x_a100"].usd_per_hour == 1.99
    assert rows["gpu_2x_h100_sxm5"].usd_per_hour is None
    assert list(rows["gpu_2x_h100_sxm5"].offers()) == []
    assert rows["gpu_1x_gh200"].arch == "arm64"


def test_a_machine_that_is_sold_in_two_ways_is_two_offers() -> None:
    """The one that may be taken back is said to be that one."""
    on_demand, spot = catalog.machine_types("azure")["Standard_NC24ads_A100_v4"].offers()
    assert (on_demand.usd_per_hour, on_demand.spot) == (3.673, False)
    assert (spot.usd_per_hour, spot.spot) == (0.679, True)
    assert (spot.region, spot.gpu_model, spot.gpu_memory_gb) == ("eastus", "A100", 80)


@pytest.mark.parametrize("name", providers.names())
def test_every_provider_has_a_price_list(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Of its own, without a key: what the catalog knows, or this computer; machines of one's own have no price, and no list."""
    monkeypatch.delenv("LAMBDA_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    provider = providers.load(name)
    offers = provider.price_list()
    if "host" in provider.takes:
        assert offers == []
        return
    assert {offer.provider for offer in offers} == {name}


def test_a_provider_without_a_catalog_has_no_machine_types() -> None:
    """This computer is looked at instead."""
    assert catalog.machine_types("local") == {}
