"""Compute Engine through Google's own client library: what a listing, a teardown and an offer ask of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dayfly.infra import gcp_account, gcp_sdk
from dayfly.infra.gcp_errors import GcpError, asking
from dayfly.infra.gcp_place import Place, last

_TIMEOUT_S = 30.0
# A firewall rule is changed within seconds.
_CHANGED_S = 60.0
_CLIENTS = {
    "instances": "InstancesClient",
    "disks": "DisksClient",
    "firewalls": "FirewallsClient",
    "networks": "NetworksClient",
    "subnetworks": "SubnetworksClient",
    "machine_types": "MachineTypesClient",
    "accelerator_types": "AcceleratorTypesClient",
    "global_operations": "GlobalOperationsClient",
    "zone_operations": "ZoneOperationsClient",
}
# What each delete calls that which it deletes.
_SINGULAR = {
    "instances": "instance",
    "disks": "disk",
    "firewalls": "firewall",
    "networks": "network",
    "subnetworks": "subnetwork",
}


class TypeRow(NamedTuple):
    """A machine type in one zone."""

    name: str
    zone: str
    cores: int
    memory_bytes: int


class GcpApi(NamedTuple):
    """The Compute Engine of one project.

    Attributes:
        project: its id.
        url: where the API is.
        credentials: as Google's libraries take them.
    """

    project: str
    url: str
    credentials: Any

    @classmethod
    def from_environment(cls) -> GcpApi:
        """As this computer is set up.

        Raises:
            ConfigurationError: it is not; with the fix.
        """
        project = gcp_account.project()
        url = gcp_account.base_url()
        return cls(project, url, _credentials(url, gcp_account.key_file()))

    def instances(self, owner: str | None) -> Iterator[Any]:
        """Those with an owner's label, or all."""
        return self._everywhere("instances", _by_owner(owner))

    def disks(self, owner: str | None) -> Iterator[Any]:
        """Those with an owner's label, or all that have one of ours."""
        return self._everywhere("disks", _by_owner(owner) or "labels.dayfly-run:*")

    def subnetworks(self) -> Iterator[Any]:
        """Those of ours, by their names."""
        return self._everywhere("subnetworks", _OURS)

    def firewalls(self) -> list[Any]:
        """Those of ours, by their names."""
        return self._globally("firewalls")

    def networks(self) -> list[Any]:
        """Those of ours, by their names."""
        return self._globally("networks")

    def instance(self, place: Place) -> Any:
        """One of them.

        Raises:
            GcpError: there is none (`gone`), or the API cannot be asked.
        """
        with asking(f"looking at {place.name}"):
            client = self._client("instances")
            return client.get(
                project=place.project, zone=place.zone, instance=place.name, timeout=_TIMEOUT_S
            )

    def was_preempted(self, place: Place) -> bool:
        """Whether Compute Engine itself has taken an instance back, as its record of operations tells for some days."""
        wanted = 'operationType = "compute.instances.preempted"'
        with asking(f"looking for what has become of {place.name}"):
            request = gcp_sdk.messages().ListZoneOperationsRequest(
                project=place.project, zone=place.zone, filter=wanted
            )
            found = self._client("zone_operations").list(request, timeout=_TIMEOUT_S)
            return any(_is_about(each, place) for each in found)

    def delete(self, place: Place) -> None:
        """Asks for the end of a thing, and does not wait for it; one that is gone is success.

        Raises:
            GcpError: it is still in use (`busy`), or the API refuses.
        """
        where = {n: v for n, v in (("zone", place.zone), ("region", place.region)) if v}
        named = {_SINGULAR[place.kind]: place.name}
        try:
            with asking(f"deleting {place.kind} {place.name}"):
                client = self._client(place.kind)
                client.delete_unary(project=place.project, **where, **named, timeout=_TIMEOUT_S)
        except GcpError as error:
            if not error.gone:
                raise

    def let_in(self, firewall: Any, cidr: str) -> None:
        """Adds a network to those that a rule lets in, and waits until it holds."""
        compute = gcp_sdk.messages()
        changed = compute.Firewall(source_ranges=[*firewall.source_ranges, cidr])
        with asking(f"letting {cidr} in"):
            begun = self._client("firewalls").patch_unary(
                project=self.project,
                firewall=firewall.name,
                firewall_resource=changed,
                timeout=_TIMEOUT_S,
            )
            # Not the library's own wait, which asks Google whatever the endpoint is.
            done = self._client("global_operations").wait(
                project=self.project, operation=begun.name, timeout=_CHANGED_S
            )
        for each in done.error.errors:
            raise GcpError(f"letting {cidr} in", each.code, each.message)

    def machine_types(self, names: Sequence[str]) -> list[TypeRow]:
        """Machine types by name, one row for each zone that has them."""
        wanted = " OR ".join(f'(name = "{name}")' for name in names)
        return [
            TypeRow(each.name, last(each.zone), each.guest_cpus, each.memory_mb << 20)
            for each in self._everywhere("machine_types", wanted)
        ]

    def accelerator_zones(self, name: str) -> list[str]:
        """The zones that have a kind of accelerator."""
        found = self._everywhere("accelerator_types", f'name = "{name}"')
        return [last(each.zone) for each in found]

    def _everywhere(self, kind: str, wanted: str) -> Iterator[Any]:
        """What a listing over all zones or regions has; a part of them that cannot be asked makes it incomplete."""
        doing = f"listing {kind.replace('_', ' ')}"
        name = "".join(part.title() for part in kind.split("_"))
        request = getattr(gcp_sdk.messages(), f"AggregatedList{name}Request")(
            project=self.project, filter=wanted
        )
        with asking(doing):
            for scope, part in self._client(kind).aggregated_list(request, timeout=_TIMEOUT_S):
                warned = str(part.warning.code or "")
                if warned == "UNREACHABLE":
                    raise GcpError(doing, "backendError", f"{scope} cannot be reached")
                yield from getattr(part, kind)

    def _globally(self, kind: str) -> list[Any]:
        with asking(f"listing {kind}"):
            request = getattr(gcp_sdk.messages(), f"List{kind.title()}Request")(
                project=self.project, filter=_OURS
            )
            return list(self._client(kind).list(request, timeout=_TIMEOUT_S))

    def _client(self, kind: str) -> Any:
        return _client(kind, self.url, self.credentials)


# A filter of the API's is a regular expression of the whole with "eq".
_OURS = "name eq dayfly-.*"


def _by_owner(owner: str | None) -> str:
    return "" if owner is None else f'labels.dayfly-owner = "{owner}"'


def _is_about(operation: Any, place: Place) -> bool:
    target = Place.of(operation.target_link)
    return target is not None and (target.zone, target.name) == (place.zone, place.name)


@functools.cache
def _credentials(url: str, file: Path) -> Any:
    """Found once for each place that they can be in: they renew themselves."""
    return gcp_account.credentials()


@functools.cache
def _client(kind: str, url: str, credentials: Any) -> Any:
    made = getattr(gcp_sdk.service(kind), _CLIENTS[kind])
    return made(credentials=credentials, transport="rest", client_options={"api_endpoint": url})
