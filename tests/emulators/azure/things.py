"""What there is in the emulated Azure: resources, groups, and what takes its time."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.azure.ids import ResourceId
from tests.emulators.azure.refusal import ArmError
from tests.emulators.machines.machine import Machine


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
