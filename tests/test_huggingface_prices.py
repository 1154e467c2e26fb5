"""Hugging Face's own prices where there is a token, and the catalog's, said so, where they cannot be had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dayfly
from dayfly.errors import ConfigurationError, DayflyError
from dayfly.infra import catalog, huggingface_prices
from tests.emulators.hub import Hub, hub


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, and a token for it."""
    with hub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", made.token)
        yield made


def test_with_a_token_they_are_those_of_now(served: Hub) -> None:
    """By the minute there, by the hour here; the memory of each GPU is its part of all of it."""
    small, large = dayfly.offers(provider="huggingface")
    assert (small.instance_type, small.cores, small.memory_bytes) == ("cpu-basic", 2, 16 << 30)
    assert small.usd_per_hour == pytest.approx(0.01002)
    assert (large.gpus, large.gpu_model, large.gpu_memory_gb) == (4, "L4", 24.0)
    assert large.usd_per_hour == pytest.approx(3.9)
    assert {offer.source for offer in (small, large)} == {"Hugging Face jobs API"}
    assert dayfly.offers(provider="huggingface", gpu="L4:4") == [large]


def test_without_one_they_are_the_catalog_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert huggingface_prices.price_list() == catalog.price_list("huggingface")


def test_what_cannot_be_had_is_said(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine in another shape, a token that nobody knows, a hub that is down; none shows the token."""
    for wrong in ({"unitLabel": "fortnight"}, {"ram": "much"}, {"cpu": None}):
        served.hardware[0] |= wrong
        with pytest.raises(DayflyError, match="not told of as documented"):
            huggingface_prices.price_list()
        served.hardware[0] |= {"unitLabel": "minute", "ram": "16 GB", "cpu": "2 vCPU"}
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(ConfigurationError, match="HF_TOKEN is refused"):
        huggingface_prices.price_list()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    notes = list[str]()
    found = dayfly.offers(provider="huggingface", note=notes.append)
    assert {offer.source for offer in found} == {
        each.source for each in catalog.price_list("huggingface")
    }
    assert "cannot be asked" in notes[0]
    assert "hf_nobody" not in notes[0]
