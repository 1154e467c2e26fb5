"""What a network security group lets in, by its rules of the lowest priority first, and its last one that lets nobody in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

_SSH = 22


def lets_in(rules: Iterable[Mapping[str, Any]], address: str) -> bool:
    """Whether an address of elsewhere reaches the SSH server."""
    for rule in sorted(rules, key=lambda rule: int(rule["priority"])):
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
