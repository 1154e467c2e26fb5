"""The rules of Lambda Cloud's firewall that concern a machine's SSH server."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, Any

from dayfly.infra.ingress import SSH_PORT

if TYPE_CHECKING:
    from dayfly.infra.lambda_records import Ruleset


def ssh_rule(cidr: str, description: str) -> dict[str, Any]:
    """A firewall rule that lets a network reach the machine's SSH server."""
    return {
        "protocol": "tcp",
        "port_range": [SSH_PORT, SSH_PORT],
        "source_network": cidr,
        "description": description,
    }


def lets_in(ruleset: Ruleset, cidr: str) -> bool:
    """Whether its rules let a network reach the SSH server."""
    here = ipaddress.IPv4Network(cidr)
    for rule in ruleset.rules:
        # A rule that is not as documented lets nobody in that is known of, and must not cost the run that asks.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            first, last = rule["port_range"]
            reaches = rule["protocol"] in ("tcp", "all") and first <= SSH_PORT <= last
            network = ipaddress.IPv4Network(rule["source_network"], strict=False)
            if reaches and here.subnet_of(network):
                return True
    return False
