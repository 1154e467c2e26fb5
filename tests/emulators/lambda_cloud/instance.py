"""One instance: its row in the API and the machine behind it."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.lambda_cloud import catalog, meter
from tests.emulators.lambda_cloud.order import Order
from tests.emulators.machines.machine import Machine

_ACTIONS = ("migrate", "rebuild", "restart", "cold_reboot", "terminate")
_NOT_NOW = {
    "booting": ("vm-has-not-launched", "The instance has not launched yet."),
    "terminating": ("vm-is-terminating", "The instance is being terminated."),
    "terminated": ("vm-is-terminating", "The instance is terminated."),
    "preempted": ("vm-is-terminating", "The instance was preempted."),
}


@dataclass
class Instance:
    """A launch that was accepted.

    Attributes:
        ip: that it will have; shown from when `has_ip` says so.
        launched: emulated seconds.
        accepted: the ground truth's event of the launch.
        machine: None where the emulator makes rows only.
    """

    order: Order
    ip: str
    launched: float
    name: str | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "booting"
    has_ip: bool = False
    machine: Machine | None = None
    accepted: Mapping[str, Any] = field(default_factory=dict)
    jupyter_token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def alive(self) -> bool:
        """It costs money."""
        return self.status not in meter.ENDED

    @property
    def tags(self) -> Mapping[str, str]:
        """Its tags by key."""
        return dict(self.order.tags)

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        order = self.order
        shown: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "ssh_key_names": [order.ssh_key.name],
            "file_system_names": [mount.file_system.name for mount in order.mounts],
            "region": catalog.region(order.region),
            "instance_type": order.type.as_json(),
            "actions": {name: self._action(name) for name in _ACTIONS},
            "tags": [{"key": key, "value": value} for key, value in order.tags],
            "firewall_rulesets": [{"id": id} for id in order.rulesets],
        }
        if self.name is not None:
            shown["name"] = self.name
        if order.mounts:
            shown["file_system_mounts"] = [mount.as_json() for mount in order.mounts]
        return shown | (self._address() if self.has_ip else {})

    def _address(self) -> dict[str, str]:
        tail = self.ip.rpartition(".")[2]
        url = f"https://jupyter-{self.id}.example.com/?token={self.jupyter_token}"
        return {
            "ip": self.ip,
            "private_ip": f"10.0.2.{tail}",
            "hostname": self.order.hostname or self.ip.replace(".", "-"),
            "jupyter_token": self.jupyter_token,
            "jupyter_url": url,
        }

    def _action(self, name: str) -> dict[str, Any]:
        blocked = _NOT_NOW.get(self.status)
        if blocked is None or (name == "terminate" and self.status == "booting"):
            return {"available": True}
        return {"available": False, "reason_code": blocked[0], "reason_description": blocked[1]}
