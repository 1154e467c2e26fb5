"""The emulated Azure itself: groups, what lies in them, operations that take their time, quotas, capacity, and machines.

Whoever talks to it, over HTTP or through the plugin, changes the same things. Every public method may be called from any thread.
"""

from __future__ import annotations

import copy
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.azure import firewall, machine, refusal, rules
from tests.emulators.azure.faults import Fault, Faults
from tests.emulators.azure.ids import ResourceId
from tests.emulators.azure.options import SUBSCRIPTION, Options
from tests.emulators.azure.refusal import ArmError
from tests.emulators.machines.addresses import Addresses
from tests.emulators.machines.machine import Machine
from tests.emulators.machines.machines import Machines

_END_S = 60.0
_STEP_S = 0.01


@dataclass
class Thing:
    """A resource or a resource group.

    Attributes:
        body: as it was put: location, tags, properties.
        state: "Creating", "Succeeded", "Failed", "Deleting".
        machine: of a virtual machine, once it is on; None where it never was.
        since: unix time from which it is billed, None where it is not yet.
    """

    id: ResourceId
    body: dict[str, Any]
    state: str = "Creating"
    machine: Machine | None = None
    since: float | None = None

    @property
    def type(self) -> str:
        """In lower case, "" of a group."""
        return self.id.type.lower()

    @property
    def properties(self) -> dict[str, Any]:
        """Its own, to be changed."""
        found: dict[str, Any] = self.body.setdefault("properties", {})
        return found

    @property
    def location(self) -> str:
        """Where it lies."""
        return str(self.body.get("location", ""))

    @property
    def is_spot(self) -> bool:
        """Of a virtual machine: it may be taken back."""
        return self.properties.get("priority") == "Spot"


@dataclass
class Operation:
    """Something that takes its time.

    Attributes:
        error: why it failed, once it is over.
        over: set when it has ended.
    """

    error: ArmError | None = None
    over: threading.Event = field(default_factory=threading.Event)
    id: str = field(default_factory=lambda: secrets.token_hex(16))


class World:
    """One subscription.

    Attributes:
        faults: what goes wrong next.
        events: what has happened, as (event, id), in order.
        bills: (id, region, size, spot, seconds) of each machine that has ended.
    """

    def __init__(self, options: Options, machines: Machines | None) -> None:
        self.options = options
        self.subscription = SUBSCRIPTION
        self.faults = Faults()
        self.events: list[tuple[str, str]] = []
        self.bills: list[tuple[str, str, str, bool, float]] = []
        self.operations: dict[str, Operation] = {}
        self._machines = machines
        self._addresses = Addresses()
        self._things: dict[str, Thing] = {}
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []

    # -- what is asked of it

    def put(self, text: str, body: Mapping[str, Any]) -> tuple[Thing, Operation]:
        """Makes a thing, or changes it; it may take its time after this.

        Raises:
            ArmError: it is refused.
        """
        id = self._id(text)
        fault = self.faults.take("write", id.type, body)
        if fault is not None and not fault.late:
            raise fault.error
        with self._lock:
            if not id.type:
                return self._put_group(id, body)
            group = self._group(id.group)
            if group.state == "Deleting":
                raise ArmError(
                    409,
                    "ResourceGroupBeingDeleted",
                    f"The resource group '{id.group}' is in deprovisioning state and cannot perform this operation.",
                )
            if id.type.lower() == rules.RULE:
                return self._put_rule(id, body)
            rules.check(id, body, self.options)
            self._check_references(id, body)
            thing = self._stored(id, body)
            self.events.append(("accepted", id.text))
        return thing, self._begin(lambda: self._finish(thing, fault))

    def delete(self, text: str) -> Operation | None:
        """Begins to delete a thing; None where there is none.

        Raises:
            ArmError: it is refused: something uses it.
        """
        id = self._id(text)
        fault = self.faults.take("delete", id.type, {})
        if fault is not None:
            raise fault.error
        with self._lock:
            thing = self._things.get(id.key)
            if thing is None:
                if not id.type:
                    raise refusal.no_group(id.group)
                self._group(id.group)
                return None
            self._check_unused(thing)
            thing.state = "Deleting"
            self.events.append(("deleting", id.text))
        if not id.type:
            return self._begin(lambda: self._delete_group(thing))
        return self._begin(lambda: self._delete(thing))

    def get(self, text: str) -> Thing:
        """One thing.

        Raises:
            ArmError: there is none.
        """
        id = self._id(text)
        with self._lock:
            found = self._rule(id) if id.type.lower() == rules.RULE else self._things.get(id.key)
            if found is None and not id.type:
                raise refusal.no_group(id.group)
            if found is None:
                self._group(id.group)
                raise refusal.missing(id.text, id.group)
            return found

    def all(self) -> list[Thing]:
        """Everything, groups too."""
        with self._lock:
            return list(self._things.values())

    def wait(self, operation: Operation) -> None:
        """Until it has ended.

        Raises:
            ArmError: it has failed.
        """
        operation.over.wait()
        if operation.error is not None:
            raise operation.error

    # -- what happens to it

    def live(self) -> list[Thing]:
        """The machines that cost money."""
        return [each for each in self.all() if each.type == rules.VM and each.since is not None]

    def preempt(self, text: str) -> None:
        """Takes a spot machine back, and deletes it as its eviction policy says: its group stays."""
        thing = self.get(text)
        assert thing.is_spot
        assert thing.properties.get("evictionPolicy") == "Delete"
        self.events.append(("evicted", thing.id.text))
        thing.state = "Deleting"
        self.wait(self._begin(lambda: self._delete(thing)))

    def delete_by_hand(self, text: str) -> None:
        """As somebody in the portal does."""
        operation = self.delete(text)
        assert operation is not None
        self.wait(operation)

    def usd(self, *, now: float | None = None) -> float:
        """What all machines have cost, by the catalog's prices and to the second."""
        with self._lock:
            ended = list(self.bills)
            moment = time.time() if now is None else now
            going = [self._bill(each, moment) for each in self.live()]
        return sum(self._price(size, spot) * s / 3600 for _, _, size, spot, s in [*ended, *going])

    def lets_in(self, vm: Thing, address: str) -> bool:
        """Whether the firewall of its subnet lets an address reach its SSH server."""
        with self._lock:
            return firewall.lets_in(self._rules_before(vm), address)

    def close(self) -> None:
        """Waits until whatever goes on has ended."""
        self.faults.release()
        for thread in self._threads:
            thread.join(_END_S)

    # -- groups

    def _put_group(self, id: ResourceId, body: Mapping[str, Any]) -> tuple[Thing, Operation]:
        rules.check_group(id.group, body, self.options)
        there = self._things.get(id.key)
        if there is not None and there.state == "Deleting":
            raise ArmError(
                409,
                "ResourceGroupBeingDeleted",
                f"The resource group '{id.group}' is in deprovisioning state and cannot perform this operation.",
            )
        if there is not None and there.location != body["location"]:
            raise ArmError(
                409, "InvalidResourceGroupLocation", f"The group is in '{there.location}' already."
            )
        thing = Thing(id, copy.deepcopy(dict(body)), "Succeeded")
        self._things[id.key] = thing
        self.events.append(("made", id.text))
        done = Operation()
        done.over.set()
        return thing, done

    def _group(self, name: str) -> Thing:
        id = ResourceId.parse(f"/subscriptions/{self.subscription}/resourceGroups/{name}")
        assert id is not None
        if id.key not in self._things:
            raise refusal.no_group(name)
        return self._things[id.key]

    def _delete_group(self, group: Thing) -> None:
        """Machines first, then what they used."""
        self._pause(self.options.group_delete_s)
        while inside := self._inside(group):
            machines = [each for each in inside if each.type == rules.VM]
            for each in machines or inside:
                each.state = "Deleting"
                self._delete(each)
        with self._lock:
            self._things.pop(group.id.key, None)
            self.events.append(("gone", group.id.text))

    def _inside(self, group: Thing) -> list[Thing]:
        with self._lock:
            return [
                each
                for each in self._things.values()
                if each.type and each.id.group.lower() == group.id.group.lower()
            ]

    # -- things

    def _id(self, text: str) -> ResourceId:
        id = ResourceId.parse(text)
        if id is None:
            raise ArmError(404, "InvalidResourceId", f"'{text}' is no id of a resource.")
        if id.subscription.lower() != self.subscription:
            raise ArmError(
                404,
                "SubscriptionNotFound",
                f"The subscription '{id.subscription}' could not be found.",
            )
        return id

    def _stored(self, id: ResourceId, body: Mapping[str, Any]) -> Thing:
        thing = Thing(id, copy.deepcopy(dict(body)))
        former = self._things.get(id.key)
        if former is not None:
            if former.location != thing.location:
                raise ArmError(
                    409, "InvalidResourceLocation", f"It is in '{former.location}' already."
                )
            thing.machine, thing.since = former.machine, former.since
        if thing.type == rules.ADDRESS:
            known = former.properties.get("ipAddress") if former else None
            thing.properties["ipAddress"] = known or self._new_address(thing)
        self._things[id.key] = thing
        return thing

    def _new_address(self, thing: Thing) -> str:
        there = [
            each
            for each in self._things.values()
            if each.type == rules.ADDRESS and each.location == thing.location
        ]
        if len(there) >= self.options.addresses or not self._addresses:
            raise ArmError(
                400,
                "PublicIPCountLimitReached",
                f"Cannot create more than {self.options.addresses} public IP addresses for this subscription in this region.",
            )
        return self._addresses.take()

    def _check_references(self, id: ResourceId, body: Mapping[str, Any]) -> None:
        type = id.type.lower()
        if id.parent and id.parent.lower() not in self._things:
            raise ArmError(
                404, "ParentResourceNotFound", f"Parent resource '{id.parent}' is not there."
            )
        for reference in rules.references(type, body):
            there = self._things.get(str(reference).lower())
            elsewhere = (
                there and there.location and there.location != body.get("location", there.location)
            )
            if there is None or elsewhere:
                raise refusal.no_reference(reference, id.text)
            user = self._user_of(there)
            if type == rules.VM and user is not None and user.id.key != id.key:
                raise refusal.invalid(
                    f"Network Interface {reference} is used by {user.id.text}.", "NicInUse"
                )
        if type == rules.VM and id.key not in self._things:
            self._check_quota(body)

    def _check_quota(self, body: Mapping[str, Any]) -> None:
        """Of cores, in one region: of spot machines, or of one family."""
        size = self.options.sizes[body["properties"]["hardwareProfile"]["vmSize"]]
        spot, region = body["properties"].get("priority") == "Spot", body["location"]
        used = sum(
            self.options.sizes[each.properties["hardwareProfile"]["vmSize"]].cores
            for each in self._things.values()
            if each.type == rules.VM and each.location == region and each.is_spot == spot
        )
        limit = self.options.spot_cores if spot else self.options.cores
        if used + size.cores > limit:
            family = "LowPriorityCores" if spot else f"{size.name.removesuffix('_v3')} Family Cores"
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"Operation could not be completed as it results in exceeding approved {family} quota. Additional details -"
                f" Deployment Model: Resource Manager, Location: {region}, Current Limit: {limit}, Current Usage: {used},"
                f" Additional Required: {size.cores}, (Minimum) New Limit Required: {used + size.cores}.",
            )

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

    def _check_unused(self, thing: Thing) -> None:
        parts = [each for each in self._things.values() if each.id.parent.lower() == thing.id.key]
        for each in (thing, *parts):
            user = self._user_of(each)
            codes = {
                rules.NIC: "NicInUse",
                rules.ADDRESS: "PublicIPAddressCannotBeDeleted",
                rules.NSG: "InUseNetworkSecurityGroupCannotBeDeleted",
                rules.SUBNET: "InUseSubnetCannotBeDeleted",
            }
            if user is not None and user is not thing:
                raise refusal.invalid(
                    f"{each.id.text} is in use by {user.id.text}.", codes[each.type]
                )
        if thing.type == rules.DISK and (owner := thing.body.get("managedBy")):
            raise ArmError(
                409, "OperationNotAllowed", f"Disk {thing.id.name} is attached to VM {owner}."
            )

    def _finish(self, thing: Thing, fault: Fault | None) -> None:
        """What comes after the answer."""
        is_machine = thing.type == rules.VM
        self._pause(self.options.create_s if is_machine else self.options.network_s)
        if fault is not None:
            fault.wait()
            if fault.code:
                thing.state = "Failed"
                self.events.append(("failed", thing.id.text))
                raise fault.error
        if is_machine:
            self._boot(thing)
        with self._lock:
            if thing.state == "Creating":
                thing.state = "Succeeded"
                self.events.append(("made", thing.id.text))

    def _boot(self, thing: Thing) -> None:
        with self._lock:
            if thing.state != "Creating" or thing.since is not None:
                return
            disk = f"{thing.id.text.rpartition('/providers/')[0]}/providers/Microsoft.Compute/disks/{thing.id.name}_OsDisk"
            id = self._id(disk)
            # Whether it has the machine's tags is not documented: it has none here.
            self._things[id.key] = Thing(
                id, {"location": thing.location, "managedBy": thing.id.text}, "Succeeded"
            )
            thing.since = time.time()
            if self._machines is not None:
                thing.machine = machine.make(self._machines, thing, self)

    def _delete(self, thing: Thing) -> None:
        self._pause(self.options.delete_s if thing.type == rules.VM else self.options.network_s)
        if thing.machine is not None:
            thing.machine.end()
            until = time.monotonic() + _END_S
            while not thing.machine.ended:
                assert time.monotonic() < until, thing.id.text
                time.sleep(_STEP_S)
        with self._lock:
            if self._things.get(thing.id.key) is not thing:
                return
            if thing.since is not None:
                self.bills.append(self._bill(thing, time.time()))
                thing.since = None
            after = [*self._deleted_with(thing), *self._parts(thing)]
            del self._things[thing.id.key]
            self.events.append(("gone", thing.id.text))
            if thing.type == rules.ADDRESS:
                self._addresses.give(thing.properties["ipAddress"])
        for each in after:
            self._delete(each)

    def _parts(self, thing: Thing) -> list[Thing]:
        return [each for each in self._things.values() if each.id.parent.lower() == thing.id.key]

    def _deleted_with(self, thing: Thing) -> Iterator[Thing]:
        """What has the delete option for that."""
        if thing.type == rules.VM:
            for each in self._things.values():
                if each.body.get("managedBy") == thing.id.text:
                    if thing.properties["storageProfile"]["osDisk"].get("deleteOption") == "Delete":
                        yield each
                    else:
                        each.body.pop("managedBy")
            for each in thing.properties["networkProfile"]["networkInterfaces"]:
                found = self._things.get(each["id"].lower())
                if found and (each.get("properties") or {}).get("deleteOption") == "Delete":
                    yield found
        elif thing.type == rules.NIC:
            for id in rules.references(rules.NIC, thing.body):
                used = self._things.get(id.lower())
                kept = used is None or used.properties.get("deleteOption") != "Delete"
                if used is not None and used.type == rules.ADDRESS and not kept:
                    yield used

    # -- the firewall

    def _put_rule(self, id: ResourceId, body: Mapping[str, Any]) -> tuple[Thing, Operation]:
        """A rule is a part of its group's own properties."""
        rules.check(id, body, self.options)
        parent = self._things.get(id.parent.lower())
        if parent is None:
            raise ArmError(
                404, "ParentResourceNotFound", f"Parent resource '{id.parent}' is not there."
            )
        others = [r for r in parent.properties.get("securityRules") or () if r["name"] != id.name]
        taken = {(int(r["properties"]["priority"]), r["properties"]["direction"]) for r in others}
        rules.check_rule(body["properties"], taken)
        parent.properties["securityRules"] = [
            *others,
            {"name": id.name, "id": id.text, "properties": dict(body["properties"])},
        ]
        self.events.append(("made", id.text))
        if self._machines is not None:
            self._machines.look_again()
        return Thing(id, dict(body), "Succeeded"), self._begin(lambda: None)

    def _rule(self, id: ResourceId) -> Thing | None:
        parent = self._things.get(id.parent.lower())
        rows = parent.properties.get("securityRules") or () if parent else ()
        return next((Thing(id, dict(r), "Succeeded") for r in rows if r["name"] == id.name), None)

    def _rules_before(self, vm: Thing) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for nic in rules.references(rules.VM, vm.body):
            for subnet in rules.references(rules.NIC, self._things[nic.lower()].body):
                for guard in rules.references(rules.SUBNET, self._things[subnet.lower()].body):
                    if (thing := self._things.get(guard.lower())) and thing.type == rules.NSG:
                        found += [
                            r["properties"] for r in thing.properties.get("securityRules") or ()
                        ]
        return found

    def address_of(self, vm: Thing) -> str:
        """Its public address."""
        with self._lock:
            for nic in rules.references(rules.VM, vm.body):
                for each in rules.references(rules.NIC, self._things[nic.lower()].body):
                    if self._things[each.lower()].type == rules.ADDRESS:
                        return str(self._things[each.lower()].properties["ipAddress"])
        return ""

    # -- time and money

    def _begin(self, act: Callable[[], None]) -> Operation:
        operation = Operation()

        def work() -> None:
            try:
                act()
            except ArmError as error:
                operation.error = error
            finally:
                operation.over.set()

        self.operations[operation.id] = operation
        thread = threading.Thread(target=work, name="azure-operation", daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()
        return operation

    def _pause(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)

    def _bill(self, vm: Thing, now: float) -> tuple[str, str, str, bool, float]:
        assert vm.since is not None
        size = str(vm.properties["hardwareProfile"]["vmSize"])
        return vm.id.text, vm.location, size, vm.is_spot, now - vm.since

    def _price(self, size: str, spot: bool) -> float:
        return self.options.sizes[size].price(spot) or 0.0
