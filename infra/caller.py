"""The address from which this computer reaches a machine, for a firewall that lets nobody else in."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from dayfly.errors import ConfigurationError
from dayfly.infra.ingress import EVERYBODY, PRIVATE_VARIABLE

if TYPE_CHECKING:
    from dayfly.infra.run import Run
    from dayfly.infra.spec import Spec

# Amazon's documented answer to "what address do I come from": one line of text.
SERVICE = "https://checkip.amazonaws.com"
_TIMEOUT_S = (3.0, 5.0)


class Allowed(NamedTuple):
    """Who may reach a machine, and why just they."""

    cidr: str
    why: str

    def __str__(self) -> str:
        return f"22/tcp from {self.cidr} ({self.why})"


def allowed(cidr: str | None, api_url: str, *, private: bool = False) -> Allowed:
    """Who may reach a machine of this run.

    Args:
        cidr: what the Spec says; None is this computer alone.
        api_url: the provider's API: where the way to it has a public address, or is this computer itself as with an
            emulator, nobody else has to be asked.
        private: a policy denies the public, also where this process's environment does not say so.

    Raises:
        ConfigurationError: this computer's own address could not be found out, and a policy denies all others.
    """
    if cidr is not None:
        return Allowed(cidr, "allow_cidr")
    found = own(api_url)
    if found is None and (private or os.environ.get(PRIVATE_VARIABLE)):
        raise ConfigurationError(
            "this computer's own address could not be found out, and the policy public_ingress = false lets no machine be open"
            " to anybody: set allow_cidr"
        )
    return found or Allowed(
        EVERYBODY,
        "this computer's own address could not be found out: anybody may knock, only the run's key opens;"
        " set allow_cidr to narrow it",
    )


def own(api_url: str) -> Allowed | None:
    """This computer alone, at the address that it has now; None where that cannot be found out."""
    address = _address_towards(api_url)
    if address is not None and (address.is_global or address.is_loopback):
        return Allowed(f"{address}/32", "this computer's own address")
    seen = _address_seen_by(SERVICE)
    if seen is not None:
        return Allowed(f"{seen}/32", f"this computer as {SERVICE} sees it")
    return None


def _address_towards(url: str) -> ipaddress.IPv4Address | None:
    import socket  # a plan that asks nobody has no use for it

    parts = urlsplit(url)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Nothing is sent: the system only chooses the way.
            probe.connect((parts.hostname or "", parts.port or 443))
            return ipaddress.IPv4Address(probe.getsockname()[0])
    except (OSError, ValueError):
        return None


def _address_seen_by(service: str) -> ipaddress.IPv4Address | None:
    # Its import takes longer than a plan that asks nobody.
    import requests

    try:
        with requests.Session() as session:
            # SSH does not go through an HTTP proxy, so this question must not either.
            session.trust_env = False
            answer = session.get(service, timeout=_TIMEOUT_S, allow_redirects=False)
        return ipaddress.IPv4Address(answer.text.strip()) if answer.status_code == 200 else None
    except (requests.RequestException, ValueError):
        return None


def of_run(spec: Spec, run: Run, api_url: str) -> Allowed:
    """As `allowed`, and no run opens its machines to everybody because nobody could tell where this computer is.

    A preview, which makes nothing, shows what would be.

    Raises:
        ConfigurationError: this computer's own address could not be found out, and the Spec does not say who is let in.
    """
    found = allowed(spec.allow_cidr, api_url)
    if spec.allow_cidr is None and run.public_key and found.cidr == EVERYBODY:
        raise ConfigurationError(
            f"this computer's own address could not be found out ({SERVICE} did not tell), so that port 22 would be open to"
            ' all: set allow_cidr, "203.0.113.7/32"'
        )
    return found
