"""What a network security group lets in, by its rules of the lowest priority first, and its last one that lets nobody in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from tests.emulators.azure import rules
from tests.emulators.azure.ids import ResourceId
from tests.emulators.azure.things import Thing

_SSH = 22


def lets_in(rows: Iterable[Mapping[str, Any]], address: str) -> bool:
    """Whether an address of elsewhere reaches the SSH server."""
    for rule in sorted(rows, key=lambda rule: int(rule["priority"])):
        if rule["direction"] == "Inbound" and _is_met(rule, address):
            return bool(rule["access"] == "Allow")
    return False


def _is_met(rule: Mapping[str, Any], address: str) -> bool:
    if rule["protocol"] not in ("Tcp", "*") or not _has_port(rule["destinationPortRange"]):
        return False
    source = rule["sourceAddressPrefix"]
    if source in ("*", "Internet"):
        return True
    return ipaddress.IPv4Address(address) in ipaddress.IPv4Network(source, strict=False)


def _has_port(text: str) -> bool:
    first, _, last = text.partition("-")
    return text == "*" or int(first) <= _SSH <= int(last or first)


def rule_of(guard: Thing | None, id: ResourceId) -> Thing | None:
    """One rule, which is a part of its group's own properties."""
    rows = guard.properties.get("securityRules") or () if guard else ()
    return next((Thing(id, dict(r), "Succeeded") for r in rows if r["name"] == id.name), None)


def put_rule(guard: Thing, id: ResourceId, body: Mapping[str, Any]) -> None:
    """Puts a rule beside the others.

    Raises:
        ArmError: it cannot be.
    """
    others = [r for r in guard.properties.get("securityRules") or () if r["name"] != id.name]
    taken = {(int(r["properties"]["priority"]), r["properties"]["direction"]) for r in others}
    rules.check_rule(body["properties"], taken)
    row = {"name": id.name, "id": id.text, "properties": dict(body["properties"])}
    guard.properties["securityRules"] = [*others, row]
