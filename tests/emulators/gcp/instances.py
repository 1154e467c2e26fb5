"""Instances: what they may be, how they come to be on a machine of this computer, and what ends them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.emulators.gcp import refusals, rules, stock
from tests.emulators.gcp.refusals import Refusal, invalid
from tests.emulators.machines.addresses import Addresses
from tests.emulators.machines.machine import Machine
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.wanted import Wanted

if TYPE_CHECKING:
    from tests.emulators.gcp.world import World

Row = dict[str, Any]
_USER = "ubuntu:"
_MOST_RUNTIME_S = 120 * 24 * 3600.0


class Instances:
    """Those of one world; its lock is theirs."""

    def __init__(self, world: World, machines: Machines | None) -> None:
        self._world = world
        self._machines = machines
        self._of: dict[str, Machine] = {}
        self._due: dict[str, float] = {}
        self._addresses = Addresses()
        self._inner = itertools.count(2)

    def check(self, project: str, zone: str, row: Row) -> None:
        """Refuses at once what cannot be.

        Raises:
            Refusal: names the field.
        """
        type = str(row.get("machineType", "")).rpartition("/")[2]
        found = stock.type_in(type, zone)
        if found is None:
            text = f"Machine type with name '{type}' does not exist in zone '{zone}'."
            raise invalid("resource.machineType", row.get("machineType"), text)
        rules.check_labels(row.get("labels") or {})
        rules.check_metadata(_metadata(row))
        self._check_accelerators(zone, type, row)
        self._check_scheduling(found.accelerator != "" or bool(row.get("guestAccelerators")), row)
        self._check_disks(project, type, row)
        for interface in row.get("networkInterfaces") or [{}]:
            if not interface.get("subnetwork"):
                raise Refusal(400, "invalid", "At least one network interface is required.")
            if f"/regions/{zone[:-2]}/" not in interface["subnetwork"]:
                text = f"The subnetwork is not in the region of zone '{zone}'."
                raise invalid("resource.networkInterfaces[0].subnetwork", interface, text)

    def _check_accelerators(self, zone: str, type: str, row: Row) -> None:
        for each in row.get("guestAccelerators") or ():
            kind = str(each.get("acceleratorType", "")).rpartition("/")[2]
            if kind not in stock.accelerators(zone):
                raise refusals.not_found(f"projects/_/zones/{zone}/acceleratorTypes/{kind}")
            if not type.startswith("n1-"):
                text = f"[{type}] features are not compatible for creating instance with {kind}."
                raise Refusal(400, "badRequest", text)

    def _check_scheduling(self, has_gpu: bool, row: Row) -> None:
        asked = row.get("scheduling") or {}
        spot = asked.get("provisioningModel") == "SPOT"
        if (has_gpu or spot) and asked.get("onHostMaintenance") != "TERMINATE":
            text = "Instances with guest accelerators do not support live migration."
            raise Refusal(400, "badRequest", text)
        if spot and asked.get("automaticRestart", True):
            text = "Scheduling must have automaticRestart be false when preemptible is true."
            raise invalid("resource.scheduling", asked, text)
        limits = [name for name in ("maxRunDuration", "terminationTime") if asked.get(name)]
        if limits and not asked.get("instanceTerminationAction"):
            text = "You must specify an instance termination action with a limit of the run time."
            raise invalid(f"resource.scheduling.{limits[0]}", asked, text)
        if len(limits) > 1:
            text = "Only one of maxRunDuration and terminationTime can be specified."
            raise invalid("resource.scheduling", asked, text)
        if limits and not 0 < _left_s(asked) <= _MOST_RUNTIME_S:
            text = "The time must be in the future, and at most 120 days away."
            raise invalid(f"resource.scheduling.{limits[0]}", asked, text)

    def _check_disks(self, project: str, type: str, row: Row) -> None:
        for disk in row.get("disks") or ():
            asked = disk.setdefault("initializeParams", {})
            steps = str(asked.get("sourceImage", "")).partition("projects/")[2].split("/")
            size = stock.IMAGES.get((steps[0], steps[-1]))
            if size is None:
                raise refusals.not_found(f"projects/{'/'.join(steps)}")
            asked["diskSizeGb"] = str(asked.get("diskSizeGb") or size)
            if int(asked["diskSizeGb"]) < size:
                text = f"Requested disk size cannot be smaller than the image size ({size} GB)"
                raise invalid("resource.disks[0].initializeParams.diskSizeGb", asked, text)
            rules.check_labels(asked.get("labels") or {})
            kind = str(asked.get("diskType", "")).rpartition("/")[2]
            if type.startswith(("a3-", "a4-")) != kind.startswith("hyperdisk"):
                text = f"[{kind}] features are not compatible for creating instance of {type}."
                raise Refusal(400, "badRequest", text)
        if not row.get("disks"):
            raise Refusal(400, "required", "Required field 'resource.disks' not specified")

    def make(self, path: str, row: Row, operation: Mapping[str, Any]) -> None:
        """Makes one, as its operation does.

        Raises:
            Failure: there is no capacity, or a quota does not allow it; nothing of it is left.
        """
        world, steps = self._world, path.split("/")
        project, zone = steps[1], steps[3]
        time.sleep(world.faults.create_s)
        with world.lock:
            type = str(row["machineType"]).rpartition("/")[2]
            self._check_quota(project, zone, row)
            if {f"{type}@{zone}", f"*@{zone}"} & set(world.faults.full):
                world.truth.write("refused", instance=path, zone=zone)
                raise refusals.stockout(project, zone)
            ip = self._addresses.take()
            for interface in row["networkInterfaces"]:
                interface["networkIP"] = f"10.77.0.{next(self._inner)}"
                for access in interface.get("accessConfigs") or ():
                    access |= {"natIP": ip, "name": "external-nat", "type": "ONE_TO_ONE_NAT"}
            row |= {"status": "PROVISIONING", "zone": "/".join(row["selfLink"].split("/")[:-2])}
            self._make_disks(project, zone, row)
            world.put(path, row)
            world.truth.write("launch_accepted", instance=path, type=type, labels=row.get("labels"))
        self._start(path, row, ip)
        unfinished = False
        with world.lock:
            row["status"] = "RUNNING"
            world.truth.write("running", instance=path, **_sold_as(row))
            # A duration counts from here, a moment is what it is.
            if left_s := _left_s(row.get("scheduling") or {}):
                self._due[path] = time.monotonic() + left_s
            if world.faults.unfinished > 0:
                world.faults.unfinished -= 1
                unfinished = True
        if unfinished:
            # Only whoever ends the machine ends this operation.
            while path in world.rows:
                time.sleep(0.05)

    def preempt(self, path: str) -> None:
        """Compute Engine takes it back, as it does without asking; for a while it is being stopped."""
        world = self._world
        with world.lock:
            row = world.rows[path]
            spot = (row.get("scheduling") or {}).get("provisioningModel") == "SPOT"
            if not spot:
                raise Refusal(400, "badRequest", f"{path} is no Spot VM")
            row["status"] = "STOPPING"
            world.note("compute.instances.preempted", path)
        # Its system is told to shut down at once, and does.
        if machine := self._of.get(path):
            machine.halt()
        world.after(world.faults.preempt_s, lambda: self._taken_back(path, row))

    def _taken_back(self, path: str, row: Row) -> None:
        with self._world.lock:
            # Whoever has asked for its deletion meanwhile sees to the rest.
            is_left = self._world.rows.get(path) is row and not row.get("_ending")
        if is_left:
            self.stop(path)

    def stop(self, path: str) -> None:
        """What its termination action says happens to it."""
        world = self._world
        action = (world.rows[path].get("scheduling") or {}).get("instanceTerminationAction")
        if machine := self._of.get(path):
            machine.halt()
        if action == "DELETE":
            self.end(path)
            world.drop(path)
        else:
            world.rows[path]["status"] = "TERMINATED"
            world.truth.write("stopped", instance=path)

    def end(self, path: str) -> None:
        """Its machine is gone when this returns, and its disks are."""
        world = self._world
        row = world.rows.get(path)
        if row is None:
            return
        machine = self._of.pop(path, None)
        if machine is not None:
            machine.end()
            while not machine.ended:
                time.sleep(0.01)
        with world.lock:
            self._due.pop(path, None)
            if world.rows.get(path) is not row:
                return
            world.truth.write("stopped", instance=path)
            for interface in row["networkInterfaces"]:
                for access in interface.get("accessConfigs") or ():
                    self._addresses.give(access["natIP"])
            for disk in row["disks"]:
                if disk.get("autoDelete"):
                    world.drop("projects/" + disk["source"].partition("projects/")[2])
            row["disks"] = []

    def act(self, path: str, what: str) -> None:
        """Does something to its machine: "halt", "kill_sshd", "start_sshd", "freeze", "thaw"."""
        acts: dict[str, Callable[[], None]] = {
            name: getattr(self._of[path], name)
            for name in ("halt", "kill_sshd", "start_sshd", "freeze", "thaw")
        }
        acts[what]()

    def tick(self) -> None:
        """What time and the machines themselves do to instances."""
        world = self._world
        with world.lock:
            now = time.monotonic()
            due = [path for path, moment in self._due.items() if moment <= now]
            for path, machine in list(self._of.items()):
                row = world.rows.get(path)
                if machine.is_off and row is not None and row["status"] == "RUNNING":
                    row["status"] = "TERMINATED"
                    world.truth.write("stopped", instance=path)
        for path in due:
            if path in world.rows and not world.rows[path].get("_ending"):
                world.rows[path]["_ending"] = True
                world.truth.write("time_is_up", instance=path)
                world.note("compute.instances.delete", path)
                self.stop(path)

    def look_again(self) -> None:
        """The rules of a firewall are others now."""
        if self._machines is not None:
            self._machines.look_again()

    def _start(self, path: str, row: Row, ip: str) -> None:
        if self._machines is None:
            return
        metadata = _metadata(row)
        keys = [
            line.removeprefix(_USER)
            for line in metadata.get("ssh-keys", "").splitlines()
            if line.startswith(_USER) and metadata.get("enable-oslogin", "").upper() != "TRUE"
        ]
        accelerator, count = _gpus(row)
        wanted = Wanted(
            hostname=row["name"],
            authorized_key="\n".join(keys),
            user_data=metadata.get("user-data", ""),
            gpu=stock.shown(accelerator, count),
            lets_in=lambda address: self._lets_in(row, address),
        )
        machine = self._machines.make(path, wanted, ip)
        self._of[path] = machine
        machine.start_sshd()
        machine.apply_user_data()

    def _lets_in(self, row: Row, address: str) -> bool:
        """Whether a firewall rule of its network lets an address reach port 22; without one nobody is."""
        tags = set((row.get("tags") or {}).get("items") or ())
        subnetwork = row["networkInterfaces"][0]["subnetwork"].partition("projects/")[2]
        with self._world.lock:
            network = self._world.rows.get(f"projects/{subnetwork}", {}).get("network")
            firewalls = [
                rule
                for path, rule in self._world.rows.items()
                if "/firewalls/" in path and rule["network"] == network
            ]
        return any(_admits(rule, tags, address) for rule in firewalls)

    def _make_disks(self, project: str, zone: str, row: Row) -> None:
        for disk in row["disks"]:
            asked = disk["initializeParams"]
            path = f"projects/{project}/zones/{zone}/disks/{row['name']}"
            link = row["selfLink"].partition("projects/")[0] + path
            made = {
                "name": row["name"],
                "labels": asked.get("labels") or {},
                "sizeGb": asked["diskSizeGb"],
                "type": asked.get("diskType", ""),
                "selfLink": link,
            }
            self._world.put(path, made)
            disk["source"] = link

    def _check_quota(self, project: str, zone: str, row: Row) -> None:
        accelerator, count = _gpus(row)
        if not accelerator:
            return
        used = {"": 0, zone[:-2]: 0}
        for path, other in self._world.listed(project, "instances", ""):
            kind, more = _gpus(other)
            used[""] += more
            if kind == accelerator and f"/zones/{zone[:-2]}" in path:
                used[zone[:-2]] += more
        spot = (row.get("scheduling") or {}).get("provisioningModel") == "SPOT"
        regional = ("PREEMPTIBLE_" if spot else "") + stock.metric(accelerator)
        for metric, region in ((regional, zone[:-2]), ("GPUS_ALL_REGIONS", "")):
            limit = self._world.limit(metric, region)
            if used[region] + count > limit:
                raise refusals.quota(metric, limit, region)


def _admits(rule: Mapping[str, Any], tags: set[str], address: str) -> bool:
    import ipaddress

    targets = set(rule.get("targetTags") or ())
    opens = any(
        each.get("IPProtocol") in ("tcp", "all") and "22" in (each.get("ports") or ["22"])
        for each in rule.get("allowed") or ()
    )
    here = ipaddress.ip_address(address)
    ranges = [ipaddress.ip_network(each) for each in rule.get("sourceRanges") or ()]
    return (not targets or bool(targets & tags)) and opens and any(here in each for each in ranges)


def _left_s(scheduling: Mapping[str, Any]) -> float:
    """Until its time is up, 0 where nothing limits that.

    Raises:
        Refusal: the moment is not one of RFC 3339.
    """
    if moment := scheduling.get("terminationTime"):
        try:
            return datetime.fromisoformat(str(moment)).timestamp() - time.time()
        except ValueError:
            text = "The timestamp is not in RFC 3339 text format."
            raise invalid("resource.scheduling.terminationTime", moment, text) from None
    return float((scheduling.get("maxRunDuration") or {}).get("seconds", 0))


def _metadata(row: Mapping[str, Any]) -> dict[str, str]:
    items = (row.get("metadata") or {}).get("items") or ()
    return {each["key"]: str(each["value"]) for each in items}


def _sold_as(row: Mapping[str, Any]) -> dict[str, Any]:
    """By what its price goes."""
    accelerator, count = _gpus(row)
    return {
        "type": str(row["machineType"]).rpartition("/")[2],
        "zone": str(row["zone"]).rpartition("/")[2],
        "accelerator": accelerator,
        "count": count,
        "disk_gb": sum(int(disk["initializeParams"]["diskSizeGb"]) for disk in row["disks"]),
        "spot": (row.get("scheduling") or {}).get("provisioningModel") == "SPOT",
    }


def _gpus(row: Mapping[str, Any]) -> tuple[str, int]:
    for each in row.get("guestAccelerators") or ():
        return str(each["acceleratorType"]).rpartition("/")[2], int(each["acceleratorCount"])
    name = str(row["machineType"]).rpartition("/")[2]
    found = next((each for each in stock.TYPES if each.name == name), None)
    return (found.accelerator, found.count) if found else ("", 0)
