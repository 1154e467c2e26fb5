"""The machines behind moto's instances: made with them, ended with them, and what becomes of both by itself."""

from __future__ import annotations

import base64
import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from moto.ec2.models.instances import StateReason

from tests.emulators.aws import gpus, prices
from tests.emulators.machines.addresses import Addresses
from tests.emulators.machines.machine import Machine
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.truth import Truth
from tests.emulators.machines.wanted import Wanted

_LOOK_S = 0.05
_INTERRUPTED = StateReason(
    "Server.SpotInstanceTermination: Spot instance termination", "Server.SpotInstanceTermination"
)
_OWN_SHUTDOWN = StateReason(
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    "Client.InstanceInitiatedShutdown",
)


@dataclass
class Instance:
    """One instance of moto's, and what stands behind it.

    Attributes:
        row: moto's own.
        machine: None where this world makes rows only.
        ip: its public address.
        spot: EC2 may take it back.
        usd_per_hour: what it costs, without what is billed beside it.
        launched: unix time.
        ended: unix time from which it is not billed, 0.0 before.
        until: it is gone then, at the earliest.
        public: whether it has a public address.
        disk_gb: of its volumes together.
        spot_request: id of the request for a spot instance, "" for others.
    """

    region: str
    row: Any
    machine: Machine | None
    ip: str
    spot: bool
    usd_per_hour: float
    launched: float
    ended: float = 0.0
    until: float = 0.0
    public: bool = True
    disk_gb: int = 0
    spot_request: str = ""

    @property
    def id(self) -> str:
        """As a Machine of ours has it."""
        return f"{self.region}/{self.row.id}"

    @property
    def state(self) -> str:
        """In EC2's words."""
        return str(self.row._state.name)

    @property
    def alive(self) -> bool:
        """It is there, and may still be billed."""
        return self.state != "terminated"

    def become(self, name: str, code: int, reason: StateReason | None = None) -> None:
        """Has moto show another state."""
        self.row._state.name, self.row._state.code = name, code
        if reason is not None:
            self.row.state_reason = reason


class Instances:
    """All of them.

    Lifecycle: constructing starts a thread that sees to what happens by itself; `close` ends it, and all machines.

    Args:
        machines: None for rows only.
        truth: what happens is written there.
        lock: of the world.
        ending_s: an end takes so long at least.
        sshd_s: an SSH server answers so long after the launch.
        firewalls: whether the rules of security groups are kept to.
    """

    def __init__(
        self,
        machines: Machines | None,
        truth: Truth,
        lock: threading.RLock,
        *,
        ending_s: float,
        sshd_s: float,
        firewalls: bool,
    ) -> None:
        self._machines, self._truth, self._lock = machines, truth, lock
        self._ending_s, self._sshd_s, self._firewalls = ending_s, sshd_s, firewalls
        self._addresses = Addresses()
        self._all: dict[str, Instance] = {}
        self._late: list[tuple[float, Any]] = []
        self._broken: list[StateReason] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def all(self) -> list[Instance]:
        """Gone or not."""
        with self._lock:
            return list(self._all.values())

    def alive(self) -> list[Instance]:
        """What is there."""
        return [each for each in self.all() if each.alive]

    def of(self, id: str) -> Instance:
        """By EC2's id, or ours."""
        return self._all[id.rpartition("/")[2]]

    def break_next(self, code: str, message: str) -> None:
        """The next launch is answered, and its instance ends by itself for this reason."""
        self._broken.append(StateReason(f"{code}: {message}", code))

    def add(
        self, region: str, row: Any, user_data: str, public_key: str, *, public: bool = True
    ) -> None:
        """A launch that moto has carried out, with a public address or without one."""
        ip = self._addresses.take()
        row.nics[0].public_ip = ip if public else None
        spot = row.lifecycle == "spot"
        zone = row.placement.zone
        price = (
            prices.spot(row.instance_type, zone)
            if spot
            else prices.on_demand(row.instance_type, region)
        )
        made = Instance(region, row, None, ip, spot, price or 0.0, time.time())
        made.public = public
        made.disk_gb = sum(int(each.size) for each in _volumes(row))
        if spot:
            # Moto shows it with the instance.
            made.spot_request = row.spot_instance_request_id = f"sir-{secrets.token_hex(4)}"
        self._all[row.id] = made
        self._truth.write(
            "launch_accepted", instance=made.id, type=row.instance_type, zone=zone, spot=spot
        )
        if self._broken:
            self._end(made, self._broken.pop(0))
        elif self._machines is not None:
            made.machine = self._machines.make(
                made.id, self._wanted(made, user_data, public_key), ip
            )
            begin = time.monotonic() + self._sshd_s
            # Until the user data has been applied it shows a key of the image's own.
            self._late += [
                (begin, made.machine.start_sshd),
                (begin + 0.3, made.machine.apply_user_data),
            ]

    def _wanted(self, made: Instance, user_data: str, public_key: str) -> Wanted:
        return Wanted(
            hostname=f"ip-{made.ip.replace('.', '-')}",
            authorized_key=public_key,
            user_data=base64.b64decode(user_data).decode() if user_data else "",
            gpu=gpus.shown(made.row.instance_type),
            lets_in=partial(self._lets_in, made) if self._firewalls else None,
        )

    def _lets_in(self, made: Instance, address: str) -> bool:
        """By the rules that its groups have now."""
        here = ipaddress.IPv4Address(address)
        for group in made.row.security_groups:
            for rule in group.ingress_rules:
                here_too = rule.ip_protocol == "-1" or rule.from_port <= 22 <= rule.to_port
                network = rule.ip_range.get("CidrIp")
                if here_too and network and here in ipaddress.IPv4Network(network):
                    return True
        return False

    def look_again(self) -> None:
        """The rules are others now."""
        if self._machines is not None:
            self._machines.look_again()

    def terminated(self, id: str) -> None:
        """Moto has been told to end it, and has."""
        found = self._all.get(id)
        if found is not None and not found.ended:
            self._end(found, None)

    def preempt(self, id: str) -> None:
        """EC2 takes a spot instance back."""
        with self._lock:
            found = self.of(id)
            assert found.spot, f"{id} is no spot instance"
            self._end(found, _INTERRUPTED)

    def _end(self, found: Instance, reason: StateReason | None) -> None:
        if found.state not in ("terminated", "shutting-down"):
            found.row.terminate()
        if found.machine is not None:
            found.machine.end()
        found.ended, found.until = time.time(), time.monotonic() + self._ending_s
        found.become("shutting-down", 32, reason)
        why = "" if reason is None else reason.code
        self._truth.write("ended", instance=found.id, why=why)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_S):
            with self._lock:
                try:
                    self._happen(time.monotonic())
                except Exception:  # noqa: BLE001 - logged; the world goes on
                    self._truth.failed("instances")

    def _happen(self, now: float) -> None:
        due = [act for at, act in self._late if at <= now]
        self._late = [(at, act) for at, act in self._late if at > now]
        for act in due:
            act()
        for each in self._all.values():
            gone = each.machine is None or each.machine.ended
            if each.state == "shutting-down" and gone and now >= each.until:
                each.become("terminated", 48)
                self._addresses.give(each.ip)
                self._truth.write("terminated", instance=each.id)
            elif each.state == "running" and each.machine is not None and each.machine.is_off:
                self._switched_off(each)

    def _switched_off(self, each: Instance) -> None:
        """It does with itself what its launch has said."""
        if each.row.instance_initiated_shutdown_behavior == "terminate":
            self._end(each, _OWN_SHUTDOWN)
        else:
            each.become("stopped", 80, _OWN_SHUTDOWN)

    def close(self) -> None:
        """Ends everything."""
        self._closed.set()
        self._thread.join()
        if self._machines is not None:
            self._machines.close()


def _volumes(row: Any) -> list[Any]:
    """Moto's, of one of its instances; it forgets them when it ends."""
    return [row.ec2_backend.volumes[each.volume_id] for each in row.block_device_mapping.values()]
