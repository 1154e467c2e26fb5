"""The emulated Azure itself: groups, what lies in them, operations that take their time, quotas, capacity, and machines.

Whoever talks to it, over HTTP or through the plugin, changes the same things. Every public method may be called from any thread.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.emulators.azure import firewall, machine, meter, refusal, rules
from tests.emulators.azure.bonds import Bonds
from tests.emulators.azure.faults import Fault, Faults
from tests.emulators.azure.ids import ResourceId
from tests.emulators.azure.meter import Bill
from tests.emulators.azure.operations import Operations
from tests.emulators.azure.options import SUBSCRIPTION, Options
from tests.emulators.azure.refusal import ArmError
from tests.emulators.azure.things import Operation, Thing
from tests.emulators.machines.addresses import Addresses
from tests.emulators.machines.machines import Machines

_END_S = 60.0
_STEP_S = 0.01


class World:
    """One subscription.

    Attributes:
        faults: what goes wrong next.
        events: what has happened, as (event, id), in order.
        bills: of each machine that has ended.
    """

    def __init__(self, options: Options, machines: Machines | None) -> None:
        self.options = options
        self.subscription = SUBSCRIPTION
        self.faults = Faults()
        self.events: list[tuple[str, str]] = []
        self.bills: list[Bill] = []
        self.operations = Operations()
        self._machines = machines
        self._addresses = Addresses()
        self._things: dict[str, Thing] = {}
        self._bonds = Bonds(self._things, options)
        self._lock = threading.RLock()

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
                raise refusal.being_deleted(id.group)
            if id.type.lower() == rules.RULE:
                return self._put_rule(id, body)
            rules.check(id, body, self.options)
            self._bonds.check_new(id, body)
            thing = self._stored(id, body)
            self.events.append(("accepted", id.text))
        return thing, self.operations.begin(lambda: self._finish(thing, fault))

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
            self._bonds.check_unused(thing)
            thing.state = "Deleting"
            self.events.append(("deleting", id.text))
        if not id.type:
            return self.operations.begin(lambda: self._delete_group(thing))
        return self.operations.begin(lambda: self._delete(thing))

    def get(self, text: str) -> Thing:
        """One thing.

        Raises:
            ArmError: there is none.
        """
        id = self._id(text)
        with self._lock:
            found = self._things.get(id.key)
            if id.type.lower() == rules.RULE:
                found = firewall.rule_of(self._things.get(id.parent.lower()), id)
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
        self.wait(self.operations.begin(lambda: self._delete(thing)))

    def delete_by_hand(self, text: str) -> None:
        """As somebody in the portal does."""
        operation = self.delete(text)
        assert operation is not None
        self.wait(operation)

    def usd(self) -> float:
        """What all machines have cost."""
        with self._lock:
            return meter.usd([*self.bills, *map(meter.bill, self.live())], self.options)

    def lets_in(self, vm: Thing, address: str) -> bool:
        """Whether the firewall of its subnet lets an address reach its SSH server."""
        with self._lock:
            return firewall.lets_in(self._bonds.rules_before(vm), address)

    def address_of(self, vm: Thing) -> str:
        """The public address of a machine."""
        with self._lock:
            return self._bonds.address_of(vm)

    def close(self) -> None:
        """Waits until whatever goes on has ended."""
        self.faults.release()
        self.operations.close()

    # -- groups

    def _put_group(self, id: ResourceId, body: Mapping[str, Any]) -> tuple[Thing, Operation]:
        rules.check_group(id.group, body, self.options)
        there = self._things.get(id.key)
        if there is not None and there.state == "Deleting":
            raise refusal.being_deleted(id.group)
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
        time.sleep(self.options.group_delete_s)
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
            if not known:
                self._bonds.check_one_more_address(thing.location)
            thing.properties["ipAddress"] = known or self._addresses.take()
        self._things[id.key] = thing
        return thing

    def _finish(self, thing: Thing, fault: Fault | None) -> None:
        """What comes after the answer."""
        is_machine = thing.type == rules.VM
        time.sleep(self.options.create_s if is_machine else self.options.network_s)
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
        time.sleep(self.options.delete_s if thing.type == rules.VM else self.options.network_s)
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
                self.bills.append(meter.bill(thing))
                thing.since = None
            after = [*self._bonds.deleted_with(thing), *self._bonds.parts(thing)]
            del self._things[thing.id.key]
            self.events.append(("gone", thing.id.text))
            if thing.type == rules.ADDRESS:
                self._addresses.give(thing.properties["ipAddress"])
        for each in after:
            self._delete(each)

    def _put_rule(self, id: ResourceId, body: Mapping[str, Any]) -> tuple[Thing, Operation]:
        rules.check(id, body, self.options)
        guard = self._things.get(id.parent.lower())
        if guard is None:
            raise refusal.no_parent(id.parent)
        firewall.put_rule(guard, id, body)
        self.events.append(("made", id.text))
        if self._machines is not None:
            self._machines.look_again()
        return Thing(id, dict(body), "Succeeded"), self.operations.begin(lambda: None)
