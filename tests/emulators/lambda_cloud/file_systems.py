"""Persistent file systems: folders that outlive the machines that mount them."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.emulators.lambda_cloud import catalog, refusal
from tests.emulators.lambda_cloud.body import Body
from tests.emulators.lambda_cloud.clock import iso
from tests.emulators.lambda_cloud.refusal import Refusal
from tests.emulators.machines.truth import Truth

_MOUNT_POINT = r"^(/home|/lambda/nfs|/data)[//a-zA-Z0-9-]*$"


@dataclass(frozen=True)
class FileSystem:
    """One of them.

    Attributes:
        folder: where its files really are.
    """

    id: str
    name: str
    region: str
    created: str
    folder: Path

    @property
    def mount_point(self) -> str:
        """Where machines have it unless they ask for another place."""
        return f"/lambda/nfs/{self.name}"


@dataclass(frozen=True)
class Mount:
    """A file system on a machine."""

    file_system: FileSystem
    mount_point: str

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"mount_point": self.mount_point, "file_system_id": self.file_system.id}


class FileSystems:
    """All of them."""

    def __init__(self, truth: Truth, folder: Path, in_use: Callable[[str], bool]) -> None:
        self._truth = truth
        self._folder = folder
        self._in_use = in_use
        self._all: dict[str, FileSystem] = {}

    def all(self) -> list[dict[str, Any]]:
        """As the API shows them."""
        return [self._as_json(each) for each in self._all.values()]

    def create(self, body: Body) -> dict[str, Any]:
        """A new, empty one."""
        name = body.text("name", least=1, most=60, pattern=r"^[a-zA-Z]+[0-9a-zA-Z-]*$")
        region = body.text("region")
        body.end()
        if region not in catalog.REGIONS:
            raise body.refusal("region", f"Unknown region {region}")
        if any(each.name == name for each in self._all.values()):
            raise Refusal(400, "global/duplicate", f"Filesystem {name} already exists.")
        id = uuid.uuid4().hex
        made = FileSystem(id, name, region, iso(time.time()), self._folder / id)
        made.folder.mkdir(parents=True)
        self._all[id] = made
        self._truth.write("file_system_added", id=id, name=name, region=region)
        return self._as_json(made)

    def delete(self, id: str) -> dict[str, Any]:
        """Deletes it with all that is in it."""
        if id not in self._all:
            raise refusal.missing("Filesystem was not found.")
        if self._in_use(id):
            raise Refusal(400, "filesystems/filesystem-in-use", "Filesystem is in use.")
        gone = self._all.pop(id)
        shutil.rmtree(gone.folder)
        self._truth.write("file_system_deleted", id=id, name=gone.name, region=gone.region)
        return {"deleted_ids": [id]}

    def mounts(self, body: Body, region: str) -> tuple[Mount, ...]:
        """What a launch wants mounted; a mount point of its own goes before the default.

        Raises:
            Refusal: one does not exist, or is in another region.
        """
        wanted = {}
        for name in body.texts("file_system_names"):
            found = next((each for each in self._all.values() if each.name == name), None)
            if found is None:
                raise refusal.missing(f"Filesystem {name} was not found.")
            wanted[found.id] = Mount(found, found.mount_point)
        for entry in body.records("file_system_mounts"):
            point = entry.text("mount_point", most=256, pattern=_MOUNT_POINT)
            id = entry.text("file_system_id")
            entry.end()
            if id not in self._all:
                raise refusal.missing("Filesystem was not found.")
            wanted[id] = Mount(self._all[id], point)
        for mount in wanted.values():
            if mount.file_system.region != region:
                raise Refusal(
                    400,
                    "instance-operations/launch/file-system-in-wrong-region",
                    f"Filesystem {mount.file_system.name} is in {mount.file_system.region}, not in {region}.",
                )
        return tuple(wanted.values())

    def _as_json(self, each: FileSystem) -> dict[str, Any]:
        return {
            "id": each.id,
            "name": each.name,
            "mount_point": each.mount_point,
            "created": each.created,
            "created_by": {"id": "0" * 32, "email": "emulated@example.com", "status": "active"},
            "is_in_use": self._in_use(each.id),
            "region": catalog.region(each.region),
            "bytes_used": 0,
        }
