"""What things in the emulated Azure have to do with each other: who uses whom, who goes with whom, and how many there may be.

Everything is asked with the world's lock held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.emulators.azure import refusal, rules
from tests.emulators.azure.ids import ResourceId
from tests.emulators.azure.options import Options
from tests.emulators.azure.refusal import ArmError
from tests.emulators.azure.things import Thing

_IN_USE = {
    rules.NIC: "NicInUse",
    rules.ADDRESS: "PublicIPAddressCannotBeDeleted",
    rules.NSG: "InUseNetworkSecurityGroupCannotBeDeleted",
    rules.SUBNET: "InUseSubnetCannotBeDeleted",
}


class Bonds:
    """Of all things there are, by the keys of their ids."""

    def __init__(self, things: Mapping[str, Thing], options: Options) -> None:
        self._things, self._options = things, options

    def check_new(self, id: ResourceId, body: Mapping[str, Any]) -> None:
        """Before a thing is made: what it names is there, in the same region and free, and the quota allows it.

        Raises:
            ArmError: it is not.
        """
        type = id.type.lower()
        if id.parent and id.parent.lower() not in self._things:
            raise refusal.no_parent(id.parent)
        for reference in rules.references(type, body):
            there = self._things.get(str(reference).lower())
            place = body.get("location")
            if there is None or (place and there.location and place != there.location):
                raise refusal.no_reference(reference, id.text)
            user = self._user_of(there)
            if type == rules.VM and user is not None and user.id.key != id.key:
                raise refusal.invalid(
                    f"Network Interface {reference} is used by {user.id.text}.", "NicInUse"
                )
        if type == rules.VM and id.key not in self._things:
            self._check_quota(body)

    def check_one_more_address(self, location: str) -> None:
        """Before a public address is made.

        Raises:
            ArmError: the quota of its region does not allow it.
        """
        there = [
            t for t in self._things.values() if (t.type, t.location) == (rules.ADDRESS, location)
        ]
        if len(there) >= self._options.addresses:
            raise ArmError(
                400,
                "PublicIPCountLimitReached",
                f"Cannot create more than {len(there)} public IP addresses for this subscription in this region.",
            )

    def check_unused(self, thing: Thing) -> None:
        """Before a thing is deleted.

        Raises:
            ArmError: something uses it, or a part of it.
        """
        for each in (thing, *self.parts(thing)):
            user = self._user_of(each)
            if user is not None and user is not thing:
                text = f"{each.id.text} is in use by {user.id.text}."
                raise refusal.invalid(text, _IN_USE[each.type])
        if thing.type == rules.DISK and (owner := thing.body.get("managedBy")):
            text = f"Disk {thing.id.name} is attached to VM {owner}."
            raise ArmError(409, "OperationNotAllowed", text)

    def parts(self, thing: Thing) -> list[Thing]:
        """What is a part of it."""
        return [each for each in self._things.values() if each.id.parent.lower() == thing.id.key]

    def deleted_with(self, thing: Thing) -> Iterator[Thing]:
        """What has the delete option for that; a disk that has not is free afterwards."""
        if thing.type == rules.VM:
            for each in self._things.values():
                if each.body.get("managedBy") == thing.id.text:
                    if thing.properties["storageProfile"]["osDisk"].get("deleteOption") == "Delete":
                        yield each
                    else:
                        each.body.pop("managedBy")
            for named in thing.properties["networkProfile"]["networkInterfaces"]:
                used = self._things.get(named["id"].lower())
                if used and (named.get("properties") or {}).get("deleteOption") == "Delete":
                    yield used
        for used in self._used(thing, rules.ADDRESS) if thing.type == rules.NIC else ():
            if used.properties.get("deleteOption") == "Delete":
                yield used

    def address_of(self, vm: Thing) -> str:
        """The public address of a machine, "" where it has none."""
        for nic in self._used(vm, rules.NIC):
            for address in self._used(nic, rules.ADDRESS):
                return str(address.properties["ipAddress"])
        return ""

    def rules_before(self, vm: Thing) -> list[Mapping[str, Any]]:
        """Of the firewall in front of a machine."""
        return [
            rule["properties"]
            for nic in self._used(vm, rules.NIC)
            for subnet in self._used(nic, rules.SUBNET)
            for guard in self._used(subnet, rules.NSG)
            for rule in guard.properties.get("securityRules") or ()
        ]

    def _used(self, thing: Thing, type: str) -> list[Thing]:
        """What it names, of one type, as far as it is still there."""
        named = (self._things.get(id.lower()) for id in rules.references(thing.type, thing.body))
        return [each for each in named if each is not None and each.type == type]

    def _user_of(self, used: Thing) -> Thing | None:
        """Who names it."""
        return next(
            (
                each
                for each in self._things.values()
                if used.id.key in (str(r).lower() for r in rules.references(each.type, each.body))
            ),
            None,
        )

    def _check_quota(self, body: Mapping[str, Any]) -> None:
        """Of cores, in one region: of spot machines, or of all others."""
        sizes = self._options.sizes
        size = sizes[body["properties"]["hardwareProfile"]["vmSize"]]
        spot, region = body["properties"].get("priority") == "Spot", body["location"]
        used = sum(
            sizes[each.properties["hardwareProfile"]["vmSize"]].cores
            for each in self._things.values()
            if each.type == rules.VM and each.location == region and each.is_spot == spot
        )
        limit = self._options.spot_cores if spot else self._options.cores
        if used + size.cores > limit:
            family = "LowPriorityCores" if spot else "Total Regional Cores"
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"Operation could not be completed as it results in exceeding approved {family} quota. Additional details -"
                f" Deployment Model: Resource Manager, Location: {region}, Current Limit: {limit}, Current Usage: {used},"
                f" Additional Required: {size.cores}, (Minimum) New Limit Required: {used + size.cores}.",
            )
