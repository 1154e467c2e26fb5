"""Ingress: which networks may reach a machine, and what of them is the public."""

from __future__ import annotations

import ipaddress
import re

# The network of this computer alone, at the address that it has when a machine is made.
OWN_ADDRESS = "own"
EVERYBODY = "0.0.0.0/0"
# All of a machine that any network is let in to.
SSH_PORT = 22
# Set for the processes that make a machine, and not for those that only plan one, where a policy wants none that the public can
# reach.
PRIVATE_VARIABLE = "DAYFLY_PRIVATE_INGRESS"
# A network of a company may have 65,536 public addresses; what is larger is the public.
_PUBLIC_PREFIX = 16


def is_public(network: str) -> bool:
    """Whether a network that is let in is the public's, and no company's, no home's and no private one."""
    if network == OWN_ADDRESS:
        return False
    found = ipaddress.ip_network(network, strict=False)
    return found.prefixlen < _PUBLIC_PREFIX and not found.is_private


def networks_in(firewall: str) -> list[str]:
    """The networks that a machine's firewall lets in, as its stack has put it in words.

    Args:
        firewall: "22/tcp from 203.0.113.7/32 (...)"; "" for a machine that opens nothing to any network.
    """
    if not firewall:
        return []
    # Whatever says no network, as where a region has no firewalls, keeps nobody out.
    return re.findall(r"\bfrom (\d+(?:\.\d+){3}/\d+)", firewall) or [EVERYBODY]
