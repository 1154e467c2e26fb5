"""Firewall rules: the account's own, the global ruleset, and rulesets that belong to a region."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.emulators.lambda_cloud import catalog
from tests.emulators.lambda_cloud.body import Body
from tests.emulators.lambda_cloud.clock import iso
from tests.emulators.lambda_cloud.refusal import Refusal
from tests.emulators.machines.truth import Truth

Rules = list[dict[str, Any]]
_SSH = {
    "protocol": "tcp",
    "port_range": [22, 22],
    "source_network": "0.0.0.0/0",
    "description": "Allow SSH from anywhere",
}
_PING = {"protocol": "icmp", "source_network": "0.0.0.0/0", "description": "Allow ping"}


@dataclass(frozen=True)
class Ruleset:
    """The rules of some machines of one region."""

    id: str
    name: str
    region: str
    rules: Rules
    created: str


class Firewalls:
    """All of them. They are kept and shown; whoever has machines behind them asks `lets_in`, and is told of a change."""

    def __init__(
        self,
        truth: Truth,
        without: tuple[str, ...],
        instances: Callable[[str], list[str]],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._changed = changed
        self._truth = truth
        self._without = without
        self._instances = instances
        self._rulesets: dict[str, Ruleset] = {}
        self._global: Rules = []
        self._account: Rules = [_SSH, _PING]

    def account_rules(self) -> Rules:
        """The inbound rules of the account."""
        return self._account

    def put_account_rules(self, body: Body) -> Rules:
        """Overwrites them."""
        self._account = _rules(body, "data", required=True)
        body.end()
        self._changed()
        return self._account

    def global_ruleset(self) -> dict[str, Any]:
        """The rules of all regions."""
        return {"id": "global", "name": "Default Workspace Global Rules", "rules": self._global}

    def patch_global(self, body: Body) -> dict[str, Any]:
        """Overwrites them."""
        if body.has("rules"):
            self._global = _rules(body, "rules")
        body.end()
        self._changed()
        return self.global_ruleset()

    def all(self) -> list[dict[str, Any]]:
        """Every ruleset."""
        return [self._as_json(each) for each in self._rulesets.values()]

    def create(self, body: Body) -> dict[str, Any]:
        """A new ruleset of a region that has them."""
        name = body.text("name", most=64)
        region = body.text("region")
        rules = _rules(body, "rules", required=True)
        body.end()
        if region not in catalog.REGIONS:
            raise body.refusal("region", f"Unknown region {region}")
        if region in self._without:
            raise body.refusal("region", f"Firewall rulesets are not supported in {region}")
        made = Ruleset(uuid.uuid4().hex, name, region, rules, iso(time.time()))
        self._rulesets[made.id] = made
        self._truth.write("ruleset_added", id=made.id, name=name, region=region)
        return self._as_json(made)

    def get(self, id: str) -> dict[str, Any]:
        """One ruleset."""
        return self._as_json(self._found(id))

    def patch(self, id: str, body: Body) -> dict[str, Any]:
        """Another name, other rules, or both."""
        was = self._found(id)
        name = body.optional_text("name", most=64)
        rules = _rules(body, "rules") if body.has("rules") else was.rules
        body.end()
        self._rulesets[id] = replace(was, name=was.name if name is None else name, rules=rules)
        self._truth.write("ruleset_changed", id=id, rules=rules)
        self._changed()
        return self.get(id)

    def delete(self, id: str) -> dict[str, Any]:
        """Gone, unless a machine has it."""
        gone = self._found(id)
        if self._instances(id):
            raise Refusal(
                400,
                "firewall-rulesets/firewall-ruleset-in-use",
                "Firewall ruleset is in use by one or more instances.",
                "Terminate all instances that are using the ruleset before deleting it.",
            )
        del self._rulesets[id]
        self._truth.write("ruleset_deleted", id=id, name=gone.name, region=gone.region)
        return {}

    def lets_in(self, rulesets: tuple[str, ...], address: str) -> bool:
        """Whether a machine with these rulesets may be reached at port 22; the rules of the account are added to its own."""
        own = [self._rulesets[id].rules for id in rulesets if id in self._rulesets]
        rules = [rule for each in own for rule in each] + self._account + self._global
        return any(
            rule["protocol"] in ("tcp", "all")
            and rule["port_range"][0] <= 22 <= rule["port_range"][1]
            and ipaddress.ip_address(address) in ipaddress.ip_network(rule["source_network"])
            for rule in rules
        )

    def wanted(self, body: Body, region: str) -> tuple[str, ...]:
        """The rulesets that a launch names.

        Raises:
            Refusal: one does not exist, or belongs to another region.
        """
        ids = []
        for entry in body.records("firewall_rulesets"):
            id = entry.text("id")
            entry.end()
            if self._found(id).region != region:
                raise entry.refusal("id", f"Firewall ruleset {id} is not in {region}")
            ids.append(id)
        return tuple(ids)

    def _found(self, id: str) -> Ruleset:
        if id not in self._rulesets:
            raise Refusal(
                404,
                "global/object-does-not-exist",
                "Firewall ruleset does not exist or you do not have permission to access it.",
                "Check your firewall ruleset ID and try again.",
            )
        return self._rulesets[id]

    def _as_json(self, each: Ruleset) -> dict[str, Any]:
        return {
            "id": each.id,
            "name": each.name,
            "region": catalog.region(each.region),
            "rules": each.rules,
            "created": each.created,
            "instance_ids": self._instances(each.id),
        }


def _rules(body: Body, name: str, *, required: bool = False) -> Rules:
    return [_rule(entry) for entry in body.records(name, required=required)]


def _rule(entry: Body) -> dict[str, Any]:
    protocol = entry.text("protocol", pattern=r"^(tcp|udp|icmp|all)$")
    ports = entry.list_of_values("port_range")
    network = entry.text("source_network")
    description = entry.text("description", most=128)
    entry.end()
    if (ports is None) != (protocol == "icmp"):
        raise entry.refusal("port_range", "Not allowed for icmp, required for the others")
    if ports is not None:
        _check_ports(entry, ports)
    try:
        network = str(ipaddress.IPv4Network(network))
    except ValueError:
        raise entry.refusal("source_network", "Input is not a valid IPv4 network") from None
    shown = {"protocol": protocol, "source_network": network, "description": description}
    return shown if ports is None else shown | {"port_range": ports}


def _check_ports(entry: Body, ports: list[Any]) -> None:
    whole = all(isinstance(port, int) and 1 <= port <= 65535 for port in ports)
    if len(ports) != 2 or not whole or ports[0] > ports[1]:
        raise entry.refusal("port_range", "Should be [min, max] of ports from 1 to 65535")
