"""provider="gcp": machines of Google Compute Engine, through pulumi-gcp; listed and ended through google-cloud-compute.

A run's stack holds a network, a subnetwork, a firewall rule and the instance; docs/gcp.md tells the rest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dayfly.infra import (
    caller,
    gcp_account,
    gcp_errors,
    gcp_offers,
    gcp_prices,
    port_map,
    run_names,
    vendor,
)
from dayfly.infra.found import Found, State
from dayfly.infra.gcp_errors import GcpError
from dayfly.infra.gcp_place import Place, region_of
from dayfly.infra.gcp_prices import Prices
from dayfly.infra.held import Held, Whose
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import FailureKind, Limits
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.infra.vendor import VendorProvider

if TYPE_CHECKING:
    from dayfly.infra.gcp_api import GcpApi

# Listings of Compute Engine are made from the same records as everything else; this is what a replica may be behind.
_LISTING_LAG_S = 10.0
# The plugin gives an operation up after ten minutes, and Compute Engine refuses for want of capacity within one.
_LATE_CREATE_S = 120.0
_EMULATED_SCALE = 50.0
# https://cloud.google.com/compute/vm-instance-pricing: by the second, for a minute at least.
_BILLING_INCREMENT_S, _BILLING_MINIMUM_S = 1.0, 60.0
# In the order of Compute Engine's documented life cycle. One that was stopped is still there, with a disk that is billed.
_STATES: Mapping[str, State] = {
    "PENDING": "pending",
    "PROVISIONING": "pending",
    "STAGING": "booting",
    "RUNNING": "running",
    "REPAIRING": "unhealthy",
    "PENDING_STOP": "stopping",
    "STOPPING": "stopping",
    "DEPROVISIONING": "stopping",
    "SUSPENDING": "stopping",
    "STOPPED": "unhealthy",
    "SUSPENDED": "unhealthy",
    "TERMINATED": "unhealthy",
}
# What one that is taken back goes through: its system has up to 30 s of STOPPING, then it is TERMINATED, or deleted where that is its
# termination action (https://docs.cloud.google.com/compute/docs/instances/spot#preemption-process).
_ENDING = ("STOPPING", "DEPROVISIONING", "STOPPED", "TERMINATED")


class Gcp(VendorProvider):
    """Google Compute Engine."""

    name = "gcp"
    plugin = "gcp"
    sdk = "pulumi_gcp"
    modules = ("google.cloud.compute_v1", "google.cloud.billing_v1")
    extra = "gcp"
    machine = "gcp:compute/instance:Instance"
    codes = gcp_errors.KINDS
    code = gcp_errors.CODE
    # Of Ubuntu 24.04, which both images are.
    pythons = ("3.12",)
    environment = (
        *vendor.ENVIRONMENT,
        gcp_account.KEY_FILE_VARIABLE,
        *gcp_account.PROJECT_VARIABLES,
        gcp_account.CONFIG_VARIABLE,
        gcp_account.ACTIVE_VARIABLE,
        gcp_account.METADATA_VARIABLE,
        gcp_account.URL_VARIABLE,
        port_map.VARIABLE,
    )
    free = frozenset(
        f"gcp:compute/{name.lower()}:{name}" for name in ("Network", "Subnetwork", "Firewall")
    )

    @property
    def limits(self) -> Limits:
        scale = _EMULATED_SCALE if gcp_account.is_emulated() else 1.0
        return Limits(
            listing_lag_s=_LISTING_LAG_S / scale,
            late_create_s=_LATE_CREATE_S / scale,
            billing_increment_s=_BILLING_INCREMENT_S,
            billing_minimum_s=_BILLING_MINIMUM_S,
            if_this_computer_dies="Compute Engine itself deletes the machine and its disk at the deadline (termination_time);"
            " what stays then, an empty network and its firewall rule, costs nothing: `dayfly gc --yes` removes it",
            console="https://console.cloud.google.com/compute/instances",
        )

    def offers(self, spec: Spec) -> Sequence[Offer]:
        if not self.is_configured():
            return self.catalog_offers(spec)
        gcp_offers.check(spec)
        api = _api()
        try:
            prices: Prices | None = gcp_prices.current(api.url, api.credentials)
        except GcpError:
            # The catalog's, which say of themselves where they come from and how old they are.
            prices = None
        return gcp_offers.ladder(spec, gcp_offers.live(spec, api, prices), prices)

    def catalog_offers(self, spec: Spec) -> Sequence[Offer]:
        """What the package itself knows, whatever is set up here."""
        gcp_offers.check(spec)
        return gcp_offers.ladder(spec, gcp_offers.offline(spec), None)

    def price_list(self) -> Sequence[Offer]:
        spec = Spec(provider=self.name)
        if not self.is_configured():
            return gcp_offers.price_list(gcp_offers.offline(spec))
        api = _api()
        prices = gcp_prices.current(api.url, api.credentials)
        return gcp_offers.price_list(gcp_offers.live(spec, api, prices))

    def owns(self, held: Held, whose: Whose) -> bool:
        """By its name, which is derived from the run. The plugin goes by the properties as well as by the id."""
        place = Place.of(held.id)
        if (
            place is None
            or place.project != whose.place
            or not place.name.startswith(f"dayfly-{whose.run}-")
        ):
            return False
        project = (whose.place, f"projects/{whose.place}")
        return held.says("name", place.name) and held.says("project", *project)

    def sets(self, settings: Mapping[str, Any], whose: Whose) -> bool:
        from dayfly.infra import gcp_stack

        return (
            gcp_stack.SETTINGS.issuperset(settings)
            and settings.get("project") == whose.place
            and settings.get("region") == region_of(whose.region)
            and settings.get("computeCustomEndpoint") == gcp_stack.endpoint()
        )

    def place(self) -> str:
        return gcp_account.project()

    def load_sdk(self, offer: Offer) -> None:
        # The part alone is loaded when something of it is looked at.
        from pulumi_gcp.compute import Instance  # noqa: F401

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Sequence[Mapping[str, Any]]:
        from dayfly.infra import gcp_stack

        project = None if gcp_account.missing() else gcp_account.project()
        return gcp_stack.declare(spec, offer, run, project)

    def inventory(self, owner: str | None) -> Sequence[Found]:
        api = _api()
        return [*_instances(api, owner), *_disks(api, owner), *_named(api, owner)]

    def terminate(self, found: Found) -> None:
        place = Place.of(found.id)
        if place is None:
            return  # No resource of Compute Engine's has such an id.
        try:
            _api().delete(place)
        except GcpError as error:
            # A network is in use until its machine has ended: whoever reads the inventory again comes back to it.
            if not error.in_use:
                raise

    def instance_state(self, id: str) -> State:
        place = Place.of(id)
        if place is None:
            return "unknown"
        api = _api()
        try:
            instance = api.instance(place)
        except GcpError as error:
            if not error.gone:
                raise
            return "preempted" if api.was_preempted(place) else "unknown"
        # Nothing in its status tells whether somebody stops it or Compute Engine itself takes it back.
        ending = _is_spot(instance) and instance.status in _ENDING
        if ending and api.was_preempted(place):
            return "preempted"
        return _STATES.get(instance.status, "unknown")

    def address(self, id: str) -> tuple[str, int] | None:
        place = Place.of(id)
        if place is None:
            return None
        try:
            host = _host(_api().instance(place))
        except GcpError as error:
            if not error.gone:
                raise
            return None
        return (host, SSH_PORT) if host else None

    def admit(self, id: str) -> str:
        place, here = Place.of(id), caller.own(gcp_account.base_url())
        if place is None or here is None:
            return ""  # Nobody is let in for whom nobody can be named.
        api = _api()
        run = dict(api.instance(place).labels).get("dayfly-run", "")
        # Only the run's own, and of its rules the one that names addresses.
        closed = [
            rule
            for rule in api.firewalls()
            if run_names.run_in(rule.name) == run != ""
            and rule.source_ranges
            and not _lets_in(rule.source_ranges, here.cidr)
        ]
        for rule in closed:
            api.let_in(rule, here.cidr)
        return str(here) if closed else ""

    def failure(self, error: str) -> FailureKind:
        return gcp_errors.kind_in(error)

    def rules_out(self, error: str, tried: Offer, other: Offer) -> bool:
        if gcp_errors.is_global_quota(error):
            return True
        # Spot has quotas of its own.
        return (region_of(tried.region), tried.spot) == (region_of(other.region), other.spot)

    def without_credentials(self) -> Sequence[str]:
        return gcp_account.missing()


PROVIDER = Gcp()


def _api() -> GcpApi:
    from dayfly.infra.gcp_api import GcpApi  # a plan that asks nobody has no use for it

    return GcpApi.from_environment()


def _instances(api: GcpApi, owner: str | None) -> Iterator[Found]:
    for each in api.instances(owner):
        labels = dict(each.labels)
        tags = labels if labels.get("dayfly-run") else {}
        place = Place.of(each.self_link)
        assert place is not None, each.self_link
        yield Found("instance", str(place), tags, _STATES.get(each.status, "unknown"))


def _disks(api: GcpApi, owner: str | None) -> Iterator[Found]:
    for each in api.disks(owner):
        yield Found("disk", str(Place.of(each.self_link)), dict(each.labels))


def _named(api: GcpApi, owner: str | None) -> Iterator[Found]:
    """Networks and what is in them, whose names and descriptions are all that they carry; what is in use comes last."""
    for each in (*api.firewalls(), *api.subnetworks(), *api.networks()):
        if tags := run_names.tags_in(each.name, each.description, owner):
            yield Found("network", str(Place.of(each.self_link)), tags)


def _is_spot(instance: Any) -> bool:
    scheduling = instance.scheduling
    return scheduling.provisioning_model == "SPOT" or bool(scheduling.preemptible)


def _host(instance: Any) -> str:
    for interface in instance.network_interfaces:
        for access in interface.access_configs:
            if access.nat_i_p:
                return str(access.nat_i_p)
    return ""


def _lets_in(ranges: Sequence[str], cidr: str) -> bool:
    here = ipaddress.ip_network(cidr)
    networks = [ipaddress.ip_network(each, strict=False) for each in ranges]
    return any(
        isinstance(each, ipaddress.IPv4Network)
        and isinstance(here, ipaddress.IPv4Network)
        and here.subnet_of(each)
        for each in networks
    )
