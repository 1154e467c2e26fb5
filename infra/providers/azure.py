"""provider="azure": Azure's virtual machines, through pulumi-azure-native; docs/azure.md tells the rest.

A run's stack holds one resource group with all that its machines need, and is ended by deleting that.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dayfly.infra import (
    azure_account,
    azure_endpoint,
    azure_errors,
    azure_names,
    azure_offers,
    caller,
    port_map,
    vendor,
)
from dayfly.infra.found import Found, State
from dayfly.infra.held import Held, Whose
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import Limits
from dayfly.infra.run import Run, is_id
from dayfly.infra.spec import Spec

if TYPE_CHECKING:
    from dayfly.infra.azure_api import AzureApi, Row, View

_CONSOLE = (
    "https://portal.azure.com/#view/HubsExtension/BrowseResource/resourceType/Microsoft.Resources"
    "%2Fsubscriptions%2FresourceGroups"
)
# Resource Manager answers from several regions, which tell each other.
_LISTING_LAG_S = 30.0
# It gives up a request after a minute; nothing of a run can be made before its group, or once that is being deleted.
_LATE_CREATE_S = 120.0
_BILLING_INCREMENT_S = 60.0
_KINDS = {
    "microsoft.compute/disks": "disk",
    "microsoft.network/publicipaddresses": "address",
}
_POWER: Mapping[str, State] = {
    "": "pending",
    "starting": "booting",
    "running": "running",
    # Switched off from within it is billed on; nothing of Dayfly's ever does that, or starts it again.
    "stopping": "unhealthy",
    "stopped": "unhealthy",
    "deallocating": "unhealthy",
    "deallocated": "unhealthy",
}
_GONE = "gone"


class Azure(vendor.VendorProvider):
    """Azure's virtual machines."""

    name = "azure"
    plugin = "azure-native"
    sdk = "pulumi_azure_native"
    modules = (
        "azure.identity",
        "azure.mgmt.compute",
        "azure.mgmt.network",
        "azure.mgmt.resource.resources",
    )
    extra = "azure"
    machine = "azure-native:compute:VirtualMachine"
    # A resource group takes along whatever lies in it.
    ends_as_one = True
    declared_with = (sdk, f"{sdk}.resources", f"{sdk}.network", f"{sdk}.compute")
    codes = azure_errors.KINDS
    code = azure_errors.CODE
    up_timeout_s = 30 * 60.0
    # Of Ubuntu 24.04, which a machine gets that asks for no other image.
    pythons = ("3.12",)
    credentials = azure_account.SECRETS
    environment = (
        *vendor.ENVIRONMENT,
        *azure_account.VARIABLES,
        azure_endpoint.URL_VARIABLE,
        azure_endpoint.SCALE_VARIABLE,
        port_map.VARIABLE,
    )
    # The public address is in the machine's rate.
    free = frozenset(
        (
            "azure-native:resources:ResourceGroup",
            *(
                f"azure-native:network:{name}"
                for name in (
                    *("NetworkSecurityGroup", "VirtualNetwork", "Subnet", "PublicIPAddress"),
                    "NetworkInterface",
                )
            ),
        )
    )

    @property
    def limits(self) -> Limits:
        scale = azure_endpoint.time_scale()
        return Limits(
            listing_lag_s=_LISTING_LAG_S / scale,
            late_create_s=_LATE_CREATE_S / scale,
            billing_increment_s=_BILLING_INCREMENT_S / scale,
            if_this_computer_dies="the machine ends the function at its deadline, but Azure bills it until somebody deletes"
            " its resource group (switching it off from within does not end that): `dayfly gc --yes` here, or elsewhere with"
            " the same subscription and --owner",
            console=_CONSOLE,
        )

    def offers(self, spec: Spec) -> Sequence[Offer]:
        return azure_offers.ladder(spec, live=self.is_configured())

    def price_list(self) -> Sequence[Offer]:
        return azure_offers.price_list(live=self.is_configured())

    def catalog_offers(self, spec: Spec) -> Sequence[Offer]:
        return azure_offers.ladder(spec, live=False)

    def owns(self, held: Held, whose: Whose) -> bool:
        """What is in the group of the run, and that itself."""
        group = azure_names.resource_group(whose.place, whose.run)
        return f"{held.id.lower()}/".startswith(f"{group}/")

    def sets(self, settings: Mapping[str, Any], whose: Whose) -> bool:
        from dayfly.infra import azure_resources

        return (
            azure_resources.SETTINGS.issuperset(settings)
            and str(settings.get("subscriptionId", "")).lower() == whose.place
            and settings.get("location") == whose.region
        )

    def place(self) -> str:
        return azure_account.subscription().lower()

    def load_sdk(self, offer: Offer) -> None:
        import pulumi_azure_native as azure

        # Each part is loaded when something of it is looked at, which its list of names is not.
        for part, name in (
            (azure.compute, "VirtualMachine"),
            (azure.network, "Subnet"),
            (azure.resources, "ResourceGroup"),
        ):
            getattr(part, name)

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Sequence[Mapping[str, Any]]:
        from dayfly.infra import azure_resources

        allowed = caller.of_run(spec, run, azure_endpoint.base_url())
        return azure_resources.Declaration(spec, offer, run, allowed).register()

    def inventory(self, owner: str | None) -> Sequence[Found]:
        api = _api()
        groups = api.groups(owner)
        states = {azure_names.group_in(row.id): row.provisioning for row in groups}
        # Machines first: they are what costs money.
        found = [*_machines(api.machines(), owner)]
        for id, each in _others(api.tagged(owner)):
            group = azure_names.group_in(id)
            if group not in states:
                # The listing of all resources lags: nothing is left in a group that is not there.
                there = api.group(group)
                states[group] = there.provisioning if there else _GONE
            if states[group] != _GONE:
                found.append((id, each))
        found += _groups(groups)
        ending = {group for group, state in states.items() if state == "Deleting"}
        return [
            replace(each, state="stopping") if azure_names.group_in(id) in ending else each
            for id, each in found
        ]

    def terminate(self, found: Found) -> None:
        api = _api()
        group = azure_names.own_group_of(found)
        if group is not None:
            api.delete_group(group)
        elif azure_names.type_of(found.id):
            api.delete(found.id)

    def instance_state(self, id: str) -> State:
        place = azure_names.place_of(id)
        if place is None:
            return "unknown"
        api = _api()
        view = api.view(place)
        if view is not None and view.provisioning != "Deleting":
            return _state(view)
        group = api.group(place.group)
        if group is None:
            return "unknown"
        if group.provisioning == "Deleting":
            return "terminated" if view is None else "stopping"
        # Nothing of ours deletes a machine and leaves its group: it was taken back, or somebody has deleted it by hand.
        is_spot = group.tags.get(azure_names.SPOT_TAG) == "true"
        return "preempted" if is_spot else "terminated" if view is None else "stopping"

    def address(self, id: str) -> tuple[str, int] | None:
        place = azure_names.place_of(id)
        if place is None:
            return None
        api = _api()
        host = api.address(place.group, f"address{place.suffix}")
        return (host, SSH_PORT) if host else None

    def admit(self, id: str) -> str:
        from dayfly.infra import azure_resources

        here = caller.own(azure_endpoint.base_url())
        place = azure_names.place_of(id)
        if here is None or place is None:
            return ""  # Nobody is let in for whom nobody can be named.
        api = _api()
        rules = api.rules(place.group, azure_names.FIREWALL)
        if not rules or any(_lets_in(rule, here.cidr) for rule in rules):
            return ""
        priority = max(int(rule.priority) for rule in rules) + 1
        rule = azure_resources.ssh_rule(here.cidr, priority)
        api.add_rule(place.group, azure_names.FIREWALL, f"ssh-{priority}", rule)
        return str(here)

    def rules_out(self, error: str, tried: Offer, other: Offer) -> bool:
        """A quota is of one region: of all spot machines there, or of one family's cores, or of all cores; and one that the
        subscription may not use is out for everything."""
        if azure_errors.is_of_region(error):
            return other.region == tried.region
        same = (other.region, other.spot) == (tried.region, tried.spot)
        of_all = tried.spot or "Total Regional" in error
        return same and (of_all or other.gpu_model == tried.gpu_model)

    def without_credentials(self) -> Sequence[str]:
        return azure_account.missing()


PROVIDER = Azure()


def _api() -> AzureApi:
    from dayfly.infra.azure_api import AzureApi  # a plan that asks nobody has no use for it

    return AzureApi.from_environment()


def _state(view: View) -> State:
    if view.provisioning == "Failed":
        return "unhealthy"
    if view.provisioning == "Creating" and view.power == "running":
        return "booting"
    return _POWER.get(view.power, "unknown")


def _machines(rows: Sequence[Row], owner: str | None) -> Iterator[tuple[str, Found]]:
    states: dict[str, State] = {
        "Creating": "pending",
        "Deleting": "stopping",
        "Failed": "unhealthy",
    }
    for row in rows:
        tags = _ours(row)
        if owner is None or tags.get("dayfly-owner") == owner:
            state = states.get(row.provisioning, "running")
            yield row.id, Found("instance", azure_names.id_of(row.id), tags, state)


def _others(rows: Sequence[Row]) -> Iterator[tuple[str, Found]]:
    for row in rows:
        type, tags = azure_names.type_of(row.id), _ours(row)
        if tags and type != "microsoft.compute/virtualmachines":
            yield row.id, Found(_KINDS.get(type, "network"), row.id, tags)


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, Found]]:
    for row in rows:
        if tags := _ours(row):
            yield row.id, Found("group", row.id, tags)


def _ours(row: Row) -> Mapping[str, str]:
    return row.tags if is_id(row.tags.get("dayfly-run", "")) else {}


def _lets_in(rule: Any, cidr: str) -> bool:
    """Whether a rule lets a network reach the SSH server."""
    here = ipaddress.IPv4Network(cidr)
    allows = (
        rule.access == "Allow" and rule.direction == "Inbound" and rule.protocol in ("Tcp", "*")
    )
    if not allows or rule.destination_port_range not in ("*", str(SSH_PORT)):
        return False
    with contextlib.suppress(TypeError, ValueError):
        return here.subnet_of(ipaddress.IPv4Network(rule.source_address_prefix, strict=False))
    return rule.source_address_prefix in ("*", "Internet")
