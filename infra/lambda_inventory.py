"""What Lambda Cloud's own listings show of runs: machines by their tags, keys and rulesets by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dayfly.infra import run_names
from dayfly.infra.found import GONE, Found

if TYPE_CHECKING:
    from dayfly.infra.lambda_api import LambdaApi

# A launch may be missing from listings for so long.
LISTING_LAG_S = 60.0


def of(api: LambdaApi, owner: str | None) -> list[Found]:
    """Everything alive, as `Provider.inventory` has it."""
    return [*_instances(api, owner), *_named(api, owner)]


def _instances(api: LambdaApi, owner: str | None) -> Iterator[Found]:
    for row in api.instances():
        tags = row.tags if row.tags.get("dayfly-run") else {}
        if row.state not in GONE and (owner is None or tags.get("dayfly-owner") == owner):
            yield Found("instance", row.id, tags, row.state)


def _named(api: LambdaApi, owner: str | None) -> Iterator[Found]:
    """Keys and rulesets of ours, whose names and remarks are all that they carry."""
    things = [
        *(("key", key.id, key.name, key.public_key) for key in api.ssh_keys()),
        *(("network", rules.id, rules.name, rules.description) for rules in api.rulesets()),
    ]
    for kind, id, name, remark in things:
        if tags := run_names.tags_in(name, remark, owner):
            yield Found(kind, id, tags)
