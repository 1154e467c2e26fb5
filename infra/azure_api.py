"""Azure Resource Manager through Azure's own SDK: the few calls that listing, ending and letting in take."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dayfly.errors import ConfigurationError
from dayfly.infra import azure_account, azure_endpoint, azure_names
from dayfly.infra.azure_errors import ApiError, mapped

# A teardown must not wait for an hour for one answer; whoever asked comes again.
_RETRIES, _CONNECT_S, _READ_S, _BACKOFF_MOST_S = 4, 10, 60, 15
_POLL_S, _RULE_S = 2.0, 60.0
# Machines first, without waiting for their shutdown: learn.microsoft.com/rest/api/resources/resource-groups/delete.
_FORCED = "Microsoft.Compute/virtualMachines"
# The API version by which one thing is deleted that was moved out of its run's group.
_VERSIONS = {
    "microsoft.compute/virtualmachines": "2024-07-01",
    "microsoft.compute/disks": "2024-03-02",
    "microsoft.network/networkinterfaces": "2024-05-01",
    "microsoft.network/publicipaddresses": "2024-05-01",
    "microsoft.network/networksecuritygroups": "2024-05-01",
    "microsoft.network/virtualnetworks": "2024-05-01",
}


class Row(NamedTuple):
    """One thing of a listing.

    Attributes:
        id: Azure's own: "/subscriptions/...".
        tags: all that it carries.
        provisioning: "Succeeded", "Creating", "Deleting", "Failed"; "" where the listing does not say.
    """

    id: str
    tags: Mapping[str, str]
    provisioning: str = ""


class View(NamedTuple):
    """One machine as it is just now.

    Attributes:
        provisioning: "Succeeded", "Creating", "Deleting", "Failed".
        power: "starting", "running", "stopping", "stopped", "deallocating", "deallocated"; "" where it has none yet.
        spot: whether Azure may take it back.
    """

    provisioning: str
    power: str
    spot: bool


class AzureApi:
    """The API with one log-in, for one subscription."""

    def __init__(self, subscription: str, url: str) -> None:
        from azure.identity import DefaultAzureCredential

        self._subscription, self._url = subscription, url
        self._credential = DefaultAzureCredential()

    @classmethod
    def from_environment(cls) -> AzureApi:
        """For the subscription, with the log-in, of this process's environment; one a process keeps its token.

        Raises:
            ConfigurationError: something is missing; with the fix.
        """
        missing = azure_account.missing()
        if missing:
            raise ConfigurationError("; ".join(missing))
        variables = tuple(os.environ.get(name, "") for name in azure_account.VARIABLES)
        try:
            return _made(azure_account.subscription(), azure_endpoint.base_url(), variables)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f'provider="azure" needs {error.name}: pip install "dayfly[azure]"'
            ) from error

    # -- what there is

    def groups(self, owner: str | None) -> list[Row]:
        """Resource groups that carry our tags."""
        with mapped("listing resource groups"):
            return [
                Row(each.id, each.tags or {}, each.properties.provisioning_state or "")
                for each in self._resources.resource_groups.list(filter=_by_tag(owner))
            ]

    def tagged(self, owner: str | None) -> list[Row]:
        """Whatever else carries our tags, by the listing that all of Resource Manager shares."""
        with mapped("listing resources"):
            found = self._resources.resources.list(filter=_by_tag(owner))
            return [Row(each.id, each.tags or {}) for each in found]

    def machines(self) -> list[Row]:
        """Every virtual machine of the subscription."""
        with mapped("listing virtual machines"):
            return [
                Row(each.id, each.tags or {}, each.provisioning_state or "")
                for each in self._compute.virtual_machines.list_all()
            ]

    def skus(self, region: str | None) -> Iterator[Any]:
        """What the subscription is sold of compute, in one region or in all, and what of it is closed to it."""
        only = f"location eq '{region}'" if region else None
        with mapped("listing what the subscription is sold"):
            yield from self._compute.resource_skus.list(filter=only)

    def view(self, place: azure_names.Place) -> View | None:
        """One machine; None where there is none."""
        try:
            with mapped(f"looking at {place.name}"):
                found = self._compute.virtual_machines.get(
                    place.group, place.name, expand="instanceView"
                )
        except ApiError as error:
            if not error.gone:
                raise
            return None
        codes = [
            each.code or "" for each in (found.instance_view and found.instance_view.statuses) or ()
        ]
        power = next(
            (code.partition("/")[2] for code in codes if code.startswith("PowerState/")), ""
        )
        return View(found.provisioning_state or "", power, found.priority == "Spot")

    def group(self, name: str) -> Row | None:
        """One resource group; None where there is none."""
        try:
            with mapped(f"looking at resource group {name}"):
                found = self._resources.resource_groups.get(name)
        except ApiError as error:
            if not error.gone:
                raise
            return None
        return Row(found.id, found.tags or {}, found.properties.provisioning_state or "")

    def address(self, group: str, name: str) -> str:
        """A public address, "" where there is none."""
        try:
            with mapped(f"looking at address {name} of {group}"):
                found = self._network.public_ip_addresses.get(group, name)
        except ApiError as error:
            if not error.gone:
                raise
            return ""
        return found.ip_address or ""

    # -- what ends

    def delete_group(self, name: str) -> None:
        """Begins to delete a group with all that lies in it; gone already is success."""
        with _gone_is_success(), mapped(f"deleting resource group {name}"):
            self._resources.resource_groups.begin_delete(
                name, force_deletion_types=_FORCED, polling=False
            )

    def delete(self, id: str) -> None:
        """Begins to delete one thing; gone already, or in use for now, is success.

        Raises:
            ApiError: it cannot be deleted; or it is of a type that no run has.
        """
        version = _VERSIONS.get(azure_names.type_of(id))
        if version is None:
            raise ApiError(
                f"deleting {id}",
                "DayflyUnknownType",
                "it carries a run's tags and is none of the things that a run has: delete it, or its tags, by hand",
            )
        with _gone_is_success(), mapped(f"deleting {id}"):
            self._resources.resources.begin_delete_by_id(id, api_version=version, polling=False)

    # -- who is let in

    def rules(self, group: str, firewall: str) -> list[Any]:
        """The rules of a network security group that a run made; none where there is none."""
        try:
            with mapped(f"looking at the firewall of {group}"):
                found = self._network.network_security_groups.get(group, firewall)
        except ApiError as error:
            if not error.gone:
                raise
            return []
        return list(found.security_rules or ())

    def add_rule(self, group: str, firewall: str, name: str, rule: Mapping[str, Any]) -> None:
        """Puts a rule beside the others, and waits until it is in force."""
        with mapped(f"adding a rule to the firewall of {group}"):
            self._network.security_rules.begin_create_or_update(
                group, firewall, name, {"properties": dict(rule)}, polling_interval=_POLL_S
            ).result(_RULE_S)

    # The modules take a second or two to load, each: only those are that are used.

    @functools.cached_property
    def _resources(self) -> Any:
        from azure.mgmt.resource.resources import ResourceManagementClient

        return ResourceManagementClient(self._credential, self._subscription, **self._options())

    @functools.cached_property
    def _compute(self) -> Any:
        from azure.mgmt.compute import ComputeManagementClient

        return ComputeManagementClient(self._credential, self._subscription, **self._options())

    @functools.cached_property
    def _network(self) -> Any:
        from azure.mgmt.network import NetworkManagementClient

        return NetworkManagementClient(self._credential, self._subscription, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self._url,
            "retry_total": _RETRIES,
            "retry_backoff_max": _BACKOFF_MOST_S,
            "connection_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            "per_call_policies": [_plain_http()] if azure_endpoint.is_emulated() else [],
        }


@functools.lru_cache(maxsize=2)
def _made(subscription: str, url: str, variables: tuple[str, ...]) -> AzureApi:
    return AzureApi(subscription, url)


def _plain_http() -> Any:
    """Lets a token go to an emulator on this computer, where there is no network to keep it from."""
    from azure.core.pipeline.policies import SansIOHTTPPolicy

    class PlainHttp(SansIOHTTPPolicy):  # type: ignore[misc,type-arg,unused-ignore]
        def on_request(self, request: Any) -> None:
            request.context.options["enforce_https"] = False

    return PlainHttp()


def _by_tag(owner: str | None) -> str:
    if owner is None:
        return "tagName eq 'dayfly-run'"
    quoted = owner.replace("'", "''")
    return f"tagName eq 'dayfly-owner' and tagValue eq '{quoted}'"


@contextlib.contextmanager
def _gone_is_success() -> Iterator[None]:
    """Nothing is raised for what is gone, or for what will be free when something else is."""
    try:
        yield
    except ApiError as error:
        if not (error.gone or error.in_use):
            raise
