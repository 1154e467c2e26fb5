"""What was listed before is known again, as long as nothing that it was made from has changed."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import providers
from dayfly.infra.listing import Listing, Resource
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.runtime import listing_cache

SPEC = Spec(provider="lambda")
OFFER = Offer("lambda", "us-east-1", "gpu_1x_a100", 30, 10**9, 1.99)
LISTING = Listing(
    (Resource("t:Key", "key", 0.0), Resource("t:Machine", "machine", 1.99), Resource("t:D", "d")),
    "engine",
)


def test_it_is_known_at_today_s_price(tmp_path: Path) -> None:
    """With who has said it, and when."""
    listing_cache.write(tmp_path, SPEC, OFFER, LISTING)
    cheaper = dataclasses.replace(OFFER, usd_per_hour=1.5)
    found = listing_cache.read(tmp_path, SPEC, cheaper)
    assert found is not None
    assert [each.usd_per_hour for each in found.resources] == [0.0, 1.5, None]
    assert (found.source, time.strftime("%Y-") in found.why) == ("cache", True)
    assert "the engine" in found.why


@pytest.mark.parametrize(
    "changed", [{"region": "us-west-1"}, {"instance_type": "x"}, {"spot": True}]
)
def test_another_machine_is_another_listing(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Its program may be another."""
    listing_cache.write(tmp_path, SPEC, OFFER, LISTING)
    assert listing_cache.read(tmp_path, SPEC, dataclasses.replace(OFFER, **changed)) is None


def test_what_a_program_sees_of_the_spec_decides(tmp_path: Path) -> None:
    """And not how the function is run."""
    listing_cache.write(tmp_path, SPEC, OFFER, LISTING)
    for seen in (Spec(provider="lambda", nodes=2), Spec(provider="lambda", image="x")):
        assert listing_cache.read(tmp_path, seen, OFFER) is None
    unseen = Spec(provider="lambda", max_runtime="1h", retries=3, environment=["numpy"])
    assert listing_cache.read(tmp_path, unseen, OFFER) is not None


def test_every_field_is_seen_unless_it_is_known_to_be_unseen() -> None:
    """So that a new one is; and none of the unseen ones has gone."""
    assert {field.name for field in dataclasses.fields(Spec)} >= listing_cache._UNSEEN


def test_a_changed_file_and_an_old_answer_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Dayfly's own, or of the provider; and so is one that is damaged."""
    listing_cache.write(tmp_path, SPEC, OFFER, LISTING)
    (file,) = (tmp_path / "cache" / "listings").iterdir()
    told = json.loads(file.read_text())
    for text in ("", "[]", json.dumps({**told, "time": time.time() - 40 * 86400})):
        file.write_text(text)
        assert listing_cache.read(tmp_path, SPEC, OFFER) is None
    file.write_text(json.dumps(told))
    assert listing_cache.read(tmp_path, SPEC, OFFER) is not None
    own = tmp_path / "provider.py"
    own.touch()
    monkeypatch.setattr("dayfly.infra.providers.lambda_cloud.__file__", str(own))
    listing_cache.write(tmp_path, SPEC, OFFER, LISTING)
    assert listing_cache.read(tmp_path, SPEC, OFFER) is not None
    os.utime(own, (1, 1))
    assert listing_cache.read(tmp_path, SPEC, OFFER) is None
    assert providers.load("lambda").name == "lambda"


def test_another_account_is_another_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another place of it; of what the environment says of it nothing but a digest is kept."""
    names = providers.load("lambda").environment
    monkeypatch.setenv(names[0], "the-secret-of-one")
    listing_cache.write(tmp_path, SPEC, OFFER, LISTING)
    (file,) = (tmp_path / "cache" / "listings").iterdir()
    assert "the-secret-of-one" not in f"{file.name} {file.read_text()}"
    for name in names[:2]:
        with monkeypatch.context() as patch:
            patch.setenv(name, "http://127.0.0.1:1")
            assert listing_cache.read(tmp_path, SPEC, OFFER) is None
    assert listing_cache.read(tmp_path, SPEC, OFFER) is not None


def test_a_guess_is_marked_as_one(tmp_path: Path) -> None:
    """An account that could not be asked may have networks of its own."""
    recorded = dataclasses.replace(LISTING, source="recorder")
    listing_cache.write(tmp_path, SPEC, OFFER, recorded, guess=True)
    found = listing_cache.read(tmp_path, SPEC, OFFER)
    assert found is not None
    assert "without credentials" in found.why


def test_what_nobody_has_listed_is_not_kept(tmp_path: Path) -> None:
    """Nor what was kept already, which would never grow old."""
    for listing in (Listing(), dataclasses.replace(LISTING, source="cache")):
        listing_cache.write(tmp_path, SPEC, OFFER, listing)
    assert not (tmp_path / "cache").exists()
