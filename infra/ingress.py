"""Ingress: which networks may reach a machine, and what of them is the public."""

from __future__ import annotations

import ipaddress

# The network of this computer alone, at the address that it has when a machine is made.
OWN_ADDRESS = "own"
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
