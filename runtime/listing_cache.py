"""What the engine or the recorder has said of a program, kept for plans that ask neither: by all that the program is made from."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dayfly.infra
import dayfly.stacks
from dayfly.infra import providers, spec_fields, vendor, whole_file
from dayfly.infra.listing import Listing
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.infra.vendor import VendorProvider
from dayfly.stacks import engine

_FOLDER = "listings"
# What a program does not see of a Spec: how a function is run, and for how long. The Offer says where.
_UNSEEN = spec_fields.OF_THE_CALL | {
    "provider",
    "instance_type",
    "region",
    "gpu",
    "spot",
    "cores",
    "memory",
    "system_packages",
    "max_runtime",
    "max_cost",
    "max_price",
    "keep",
}
_OF_OFFER = ("provider", "region", "instance_type", "gpus", "spot")
# An account may have changed since: a network of its own, a default that is gone.
_KEPT_S = 30 * 86400.0


def read(home: Path, spec: Spec, offer: Offer) -> Listing | None:
    """What has been said of this rung, at today's price; None where nothing was, or the program has changed."""
    try:
        told = json.loads(_file(home, spec, offer).read_text())
        if not 0 <= time.time() - told["time"] < _KEPT_S:
            return None
        listing = Listing.from_dict(told["listing"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    day = time.strftime("%Y-%m-%d", time.localtime(told["time"]))
    guessed = ", without credentials, so that they may be others" if told.get("guess") else ""
    who = "the engine" if listing.source == "engine" else "the recorder"
    resources = tuple(
        replace(each, usd_per_hour=offer.usd_per_hour) if number in told["machines"] else each
        for number, each in enumerate(listing.resources)
    )
    return Listing(resources, "cache", f"as {who} has listed them on {day}{guessed}")


def write(home: Path, spec: Spec, offer: Offer, listing: Listing, *, guess: bool = False) -> None:
    """Keeps what the engine or the recorder has said; a plan loses nothing where it cannot be kept.

    Args:
        home: where.
        spec, offer: the rung.
        listing: what was said.
        guess: the account could not be asked, so that it is listed as one that has nothing of its own.
    """
    if listing.source not in ("engine", "recorder"):
        return
    # The price is the Offer's, and is another tomorrow.
    machines = [
        number
        for number, each in enumerate(listing.resources)
        if offer.usd_per_hour and each.usd_per_hour == offer.usd_per_hour
    ]
    told = {
        "time": time.time(),
        "machines": machines,
        "listing": asdict(listing),
        "guess": guess,
    }
    file = _file(home, spec, offer)
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole_file.write(file, json.dumps(told))


def _file(home: Path, spec: Spec, offer: Offer) -> Path:
    place = {name: getattr(offer, name) for name in _OF_OFFER}
    asked = [_seen_of(spec), place, _made_from(offer.provider), _account(offer.provider)]
    return home / "cache" / _FOLDER / f"{_digest(asked)[:32]}.json"


@functools.lru_cache(maxsize=1)
def _seen_of(spec: Spec) -> dict[str, Any]:
    """What a program sees of a Spec, which is the same for all rungs of a ladder."""
    return {name: value for name, value in spec.as_dict().items() if name not in _UNSEEN}


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _account(provider: str) -> list[tuple[str, str]]:
    """What this process's environment says of whose account it is, and where: another one may have other networks.

    Of these values only a digest is written, together with all the rest.
    """
    named = {*providers.load(provider).environment} - {*vendor.ENVIRONMENT}
    return [(name, os.environ[name]) for name in sorted(named) if name in os.environ]


def _made_from(provider: str) -> list[Any]:
    """Whatever a provider's program is made from: Dayfly's own files, its SDK, and Pulumi."""
    loaded = providers.load(provider)
    own = _seen(Path(str(sys.modules[type(loaded).__module__].__file__)))
    sdk = [_sdk(loaded.sdk)] if isinstance(loaded, VendorProvider) else []
    return [sys.version_info[:2], engine.VERSION, _common(), own, *sdk]


@functools.cache
def _common() -> str:
    """A digest of the files of all providers' programs; looked at once, as they are when this process loads them."""
    folders = [Path(str(package.__path__[0])) for package in (dayfly.infra, dayfly.stacks)]
    return _digest([_seen(file) for folder in folders for file in sorted(folder.glob("*.py"))])


def _seen(file: Path) -> Any:
    seen = file.stat()
    return file.name, seen.st_size, seen.st_mtime_ns


@functools.cache
def _sdk(name: str) -> str:
    """What an SDK says of itself, without a look into it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return "none"
    with contextlib.suppress(OSError):
        return (Path(found.submodule_search_locations[0]) / "pulumi-plugin.json").read_text()
    return "unknown"
