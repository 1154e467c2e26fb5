"""`dayfly offers` and `dayfly.offers`: priced machines of all providers, filtered and sorted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dayfly
from dayfly.errors import ConfigurationError, SpecError
from dayfly.infra import catalog, own_gpus
from dayfly.infra.gpu_request import DriverGpu
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options
from tests.test_cli import dayfly as command


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of nobody's account, on a computer without a GPU."""
    monkeypatch.setattr(own_gpus, "found", list)
    monkeypatch.delenv("LAMBDA_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Lambda, with a key; nothing is launched on it."""
    with Emulator(Options(machines=False, time_scale=50, request_interval_s=0)) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def test_all_that_the_catalog_prices_is_listed_cheapest_first() -> None:
    """With this computer, at nothing."""
    found = dayfly.offers()
    prices = [offer.usd_per_hour for offer in found]
    assert prices == sorted(prices)
    assert found[0].provider == "local"
    assert {offer.provider for offer in found} == {"local", *catalog.providers()}
    priced = [offer for each in catalog.all_types() for offer in each.offers()]
    assert len(found) == len(priced) + 1


def test_they_can_be_awaited() -> None:
    """What is asked of clouds takes its time; what is refused is refused alike."""
    assert asyncio.run(dayfly.offers.aio(gpu="A100", max_price=4)) == dayfly.offers(
        gpu="A100", max_price=4
    )
    with pytest.raises(SpecError, match="unknown provider 'nowhere'"):
        asyncio.run(dayfly.offers.aio(provider="nowhere"))


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ({"gpu": "A100", "spot": False}, ("lambda", "gpu_1x_a100", 1.99)),
        ({"gpu": "A100-80GB", "spot": True}, ("azure", "Standard_NC24ads_A100_v4", 0.679)),
        ({"gpu": "A100-80GB:8", "spot": False}, ("huggingface", "a100x8", 20.0)),
        ({"gpu": ["H200", "B200"]}, ("huggingface", "h200", 5.0)),
        ({"gpu": "40GB..48GB:2"}, ("lambda", "gpu_2x_a6000", 2.18)),
        ({"gpu": "T4", "provider": "aws"}, ("aws", "g4dn.xlarge", 0.526)),
        ({"gpu": "T4", "provider": ["gcp", "aws"], "memory": "100GB"}, ("aws", "g4dn.12xlarge", 3.912)),
        ({"gpu": "H100", "region": "eastus", "spot": False}, ("lambda", "gpu_1x_h100_pcie", 3.29)),
        ({"cores": 100, "provider": "lambda"}, ("lambda", "gpu_8x_a100", 15.92)),
    ],
)  # fmt: skip
def test_the_cheapest_that_has_what_is_asked_for_comes_first(
    wanted: dict[str, Any], first: tuple[str, str, float]
) -> None:
    """A region leaves what is sold in all of them."""
    offer = dayfly.offers(**wanted)[0]
    assert (offer.provider, offer.instance_type, offer.usd_per_hour) == first


def test_this_computer_s_own_gpu_is_found_by_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """At nothing, before all others; where its driver hangs, the others are listed all the same."""
    monkeypatch.setattr(own_gpus, "found", lambda: [DriverGpu("NVIDIA A100-SXM4-80GB", 79.6)])
    first, second, *_ = dayfly.offers(gpu="A100-80GB")
    assert (first.provider, first.gpu_model) == ("local", "NVIDIA A100-SXM4-80GB")
    assert second.provider != "local"

    def hang() -> list[DriverGpu]:
        raise ConfigurationError("nvidia-smi hangs")

    monkeypatch.setattr(own_gpus, "found", hang)
    said = list[str]()
    assert dayfly.offers(gpu="A100-80GB", note=said.append)[0] == second
    assert "nvidia-smi hangs" in said[0]


def test_none_is_dearer_than_asked_for() -> None:
    """An hour; nothing at all is an answer, too."""
    found = dayfly.offers(gpu="A100", max_price=3)
    assert found
    assert all(offer.usd_per_hour <= 3 for offer in found)
    assert dayfly.offers(gpu="B200:8", max_price=1) == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"gpu": "8xA100!"}, ["'8xA100!'", "A100-80GB:8"]),
        ({"provider": "asw"}, ["'asw'", "did you mean 'aws'"]),
        ({"max_price": 0}, ["max_price=0", "an hour"]),
        ({"memory": "lots"}, ["'lots'"]),
    ],
)
def test_what_cannot_be_is_refused(wanted: dict[str, Any], words: list[str]) -> None:
    """By name."""
    with pytest.raises(SpecError) as refused:
        dayfly.offers(**wanted)
    for word in words:
        assert word in str(refused.value)


def test_with_a_key_lambda_s_own_prices_and_capacity_are_listed(cloud: Emulator) -> None:
    """Of now, by region; the others' are the catalog's all the same."""
    cloud.set_capacity("gpu_1x_a10", "us-west-1", 0)
    found = dayfly.offers(gpu="A10", provider=["lambda", "azure"], spot=False)
    ours = [offer for offer in found if offer.provider == "lambda"]
    assert ours
    assert {offer.source for offer in ours} == {"Lambda Cloud API"}
    assert "us-west-1" not in {
        offer.region for offer in ours if offer.instance_type == "gpu_1x_a10"
    }
    assert "azure" in {offer.provider for offer in found}


def test_prices_that_cannot_be_had_are_the_catalog_s_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that nobody knows, an API that is down."""
    with Emulator(Options(machines=False, time_scale=50, request_interval_s=0)) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LAMBDA_API_KEY", "secret_nobody_knows.0123456789abcdef")
        said = list[str]()
        found = dayfly.offers(gpu="A10", provider="lambda", note=said.append)
    assert [offer.region for offer in found] == ["any"]
    assert "the catalog's prices" in said[0]
    assert "nobody_knows" not in said[0]


def test_the_command_prints_a_table_with_age_and_source() -> None:
    """And says of which providers it knows prices only."""
    done = command("offers", "--gpu", "A100", "--max-price", "3", "--spot")
    assert done.returncode == 0
    head, first, *_ = done.stdout.splitlines()
    assert head.split()[:4] == ["PROVIDER", "MACHINE", "GPUS", "CORES"]
    assert head.split()[-2:] == ["AGE", "SOURCE"]
    assert "Standard_NC24ads_A100_v4" in first
    assert "1 x A100 80 GB" in first
    assert "spot" in first
    assert "may be old" in first
    assert "only prices are known" not in done.stderr
    other = command("offers", "--provider", "huggingface")
    assert "of huggingface only prices are known" in other.stderr


def test_the_command_s_json_is_that_of_the_offers() -> None:
    """One object each."""
    done = command("offers", "--gpu", "T4", "--provider", "aws,gcp", "--json")
    assert json.loads(done.stdout) == [
        offer.as_dict() for offer in dayfly.offers(gpu="T4", provider=["aws", "gcp"])
    ]
    assert command("offers", "--gpu", "B200:8", "--max-price", "1").stdout == ""
    assert command("offers", "--gpu", "what!").returncode == 2
