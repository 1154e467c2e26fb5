"""What Lambda Cloud's API answers with, as records: only fields that Dayfly uses, never a Jupyter token or URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dayfly.infra.found import State

NODE_TAG = "dayfly-node"
# Ids are 32 hexadecimal digits, also written as a UUID; families are words, "lambda-stack-24-04".
_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATES: Mapping[str, State] = {
    "booting": "booting",
    "active": "running",
    "unhealthy": "unhealthy",
    "preempted": "preempted",
    "terminating": "stopping",
    "terminated": "terminated",
}


@dataclass(frozen=True)
class Instance:
    """One machine of the account."""

    id: str
    name: str
    state: State
    ip: str
    tags: Mapping[str, str] = field(default_factory=dict)
    private_ip: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Instance:
        """From one row of the API."""
        return cls(
            str(row["id"]),
            str(row.get("name") or ""),
            _STATES.get(row["status"], "unknown"),
            str(row.get("ip") or ""),
            {str(tag["key"]): str(tag["value"]) for tag in row.get("tags") or ()},
            str(row.get("private_ip") or ""),
        )

    @property
    def node(self) -> int:
        """Which machine of its run it is; the first carries no number."""
        number = self.tags.get(NODE_TAG, "")
        return int(number) if number.isdecimal() else 0


@dataclass(frozen=True)
class SshKey:
    """One key of the account."""

    id: str
    name: str
    public_key: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> SshKey:
        """From one row of the API."""
        return cls(str(row["id"]), str(row["name"]), str(row["public_key"]))


@dataclass(frozen=True)
class Ruleset:
    """One firewall ruleset of a region; its description is that of its first rule.

    Attributes:
        rules: as the API has them.
        instances: ids of the machines behind it.
    """

    id: str
    name: str
    description: str = ""
    rules: tuple[Mapping[str, Any], ...] = ()
    instances: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Ruleset:
        """From one row of the API."""
        rules = row.get("rules") or [{}]
        return cls(
            str(row["id"]),
            str(row["name"]),
            str(rules[0].get("description") or ""),
            tuple(row.get("rules") or ()),
            tuple(str(id) for id in row.get("instance_ids") or ()),
        )


@dataclass(frozen=True)
class FileSystem:
    """One persistent file system of the account; Dayfly mounts it and never deletes it."""

    id: str
    name: str
    region: str
    mount_point: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> FileSystem:
        """From one row of the API."""
        return cls(
            str(row["id"]), str(row["name"]), str(row["region"]["name"]), str(row["mount_point"])
        )


@dataclass(frozen=True)
class TypeRow:
    """One instance type as it is sold now.

    Attributes:
        gpu_description: "A100 (40 GB SXM4)".
        regions: where it has capacity, by the API's advice.
    """

    name: str
    gpu_description: str
    price_cents_per_hour: int
    vcpus: int
    memory_gib: int
    storage_gib: int
    gpus: int
    architecture: str
    regions: tuple[str, ...]

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> TypeRow:
        """From one value of the API's map."""
        row, specs = entry["instance_type"], entry["instance_type"]["specs"]
        return cls(
            str(row["name"]),
            str(row["gpu_description"]),
            int(row["price_cents_per_hour"]),
            int(specs["vcpus"]),
            int(specs["memory_gib"]),
            int(specs["storage_gib"]),
            int(specs["gpus"]),
            str(row.get("architecture") or ""),
            tuple(str(region["name"]) for region in entry["regions_with_capacity_available"]),
        )


@dataclass(frozen=True)
class Launch:
    """What a launch asks for.

    Attributes:
        user_data: holds the bootstrap host key, so it is never shown.
        rulesets: ids of firewall rulesets of the same region.
        image: id or family of one; "" is the newest Lambda Stack.
    """

    name: str
    region: str
    instance_type: str
    ssh_key: str
    tags: Mapping[str, str]
    user_data: str = field(repr=False)
    rulesets: tuple[str, ...] = ()
    file_systems: tuple[str, ...] = ()
    image: str = ""

    def as_json(self) -> dict[str, Any]:
        """The body of the request."""
        body: dict[str, Any] = {
            "name": self.name,
            "region_name": self.region,
            "instance_type_name": self.instance_type,
            "ssh_key_names": [self.ssh_key],
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()],
            "user_data": self.user_data,
        }
        if self.rulesets:
            body["firewall_rulesets"] = [{"id": id} for id in self.rulesets]
        if self.file_systems:
            body["file_system_names"] = list(self.file_systems)
        if self.image:
            body["image"] = {"id" if _ID.fullmatch(self.image) else "family": self.image}
        return body
