"""Whether what a stack's state names at AWS is its run's own, before the engine is let at it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dayfly.infra import aws_endpoint, aws_inventory
from dayfly.infra.aws_ids import AwsId, zone_of
from dayfly.infra.held import Held, Whose

_SETTINGS = frozenset(
    {
        *("region", "maxRetries", "defaultTags", "skipMetadataApiCheck", "endpoints", "version"),
        *("allowedAccountIds", "skipCredentialsValidation", "skipRequestingAccountId"),
        "skipRegionValidation",
    }
)


def owns(held: Held, whose: Whose) -> bool:
    """By the key's name, which is derived from the run; by tags otherwise. An instance that is gone is nobody's.

    Raises:
        AwsError: AWS cannot be asked.
    """
    region = _region(whose)
    if not held.says("region", region):
        return False  # The plugin would go there.
    id = AwsId(region, held.id)
    match held.type.rpartition(":")[2]:
        case "KeyPair":
            return held.id == f"dayfly-{whose.run}"
        case "RouteTableAssociation":
            return aws_inventory.is_route_of(id, whose.run)
        case "Instance":
            return aws_inventory.is_instance_of(id, whose.run)
    return str(id) in whose.listed()


def sets(settings: Mapping[str, Any], whose: Whose) -> bool:
    """Whether these settings of the plugin are those that a run's program gives it."""
    return (
        _SETTINGS.issuperset(settings)
        and settings.get("region") == _region(whose)
        and _plain(settings.get("allowedAccountIds")) in (None, [whose.place])
        and _plain(settings.get("endpoints")) == (aws_endpoint.settings() or None)
    )


def _region(whose: Whose) -> str:
    found = zone_of(whose.region)
    return found[0] if found else whose.region


def _plain(value: Any) -> Any:
    """The engine keeps a plugin's lists and objects as JSON."""
    return json.loads(value) if isinstance(value, str) else value
