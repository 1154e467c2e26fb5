"""The dynamic resources of a run on a machine of one's own: its key there, and the login that shows that it is let in.

Their dotted names are in the state of every stack that is up, so they stay what they are.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dayfly.errors import ConfigurationError
from dayfly.infra import creations, fence, ssh_host, ssh_machine, ssh_records
from dayfly.infra.dynamic import CreateResult, DynamicProvider
from dayfly.infra.ssh_failed import SshFailed
from dayfly.infra.ssh_host import SshHost
from dayfly.infra.ssh_records import Record


class KeyProvider(DynamicProvider):
    """The run's key in the authorized_keys of a machine that is there already."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        directory, host = Path(props["directory"]), str(props["ssh_host"])
        deadline = float(props["deadline"])
        record = Record(props["run"], host, props["owner"], str(directory), deadline, time.time())
        # Refused before anything is on record, where there is no way for a session.
        place = ssh_host.resolve(SshHost.parse(host))
        with fence.passing(directory, record.deadline):
            try:
                host_key = ssh_machine.put(
                    record, place, props["tags"], props["public_key"], lambda: _begin(record)
                )
            except SshFailed as failed:
                if failed.did_nothing and _begun(directory) is None:
                    with contextlib.suppress(OSError):
                        never = creations.begin(directory, "instance")
                        creations.refused(directory, never, str(failed))
                raise
            id = ssh_machine.instance_id(host, record.run)
            # The key is worth more than its record: without the answer the host is asked.
            with contextlib.suppress(OSError):
                if (creation := _begun(directory)) is not None:
                    creations.answered(directory, creation, id)
                ssh_records.write(replace(record, host_key=host_key, at=time.time()))
        kept = ("run", "owner", "deadline", "directory", "ssh_host", "tags", "public_key")
        found = {
            "host": place.host,
            "port": place.port,
            "user": place.user,
            "host_key": host_key,
            "via": host if place.proxy else "",
        }
        return CreateResult(id, {name: props[name] for name in kept} | found)

    def delete(self, id: str, props: dict[str, Any]) -> None:
        ssh_machine.take_away(props["ssh_host"], props["run"])
        with contextlib.suppress(OSError):
            creations.deleted(Path(props["directory"]), id)


class ReadyProvider(DynamicProvider):
    """Nothing but a login with the run's own key; may fail and leaves nothing behind."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        record = ssh_records.of(props["run"])
        if record is None or not record.host_key:
            raise ConfigurationError(
                f"there is no record of run {props['run']}'s key on {props['ssh_host']}: is the disk full?"
            )
        ssh_machine.try_key(record)
        outs = {name: props[name] for name in ("run", "ssh_host", "host_key")}
        return CreateResult(f"ready-{props['run']}", outs)


def _begin(record: Record) -> None:
    """On record, when the machine is there, and before the key is sent; behind this the run may have something on its host.

    Raises:
        FenceShut: the run began to be closed, or came to its deadline, while the machine was being connected to.
    """
    directory = Path(record.directory)
    fence.check(directory, record.deadline)
    earlier = _begun(directory)
    if earlier is None:
        creations.begin(directory, "instance")
    else:
        creations.again(directory, earlier)
    ssh_records.write(replace(record, at=time.time()))


def _begun(directory: Path) -> creations.Creation | None:
    """The request for the key, which may have been sent by an earlier attempt; None where none was."""
    return next((c for c in creations.read(directory) if c.outcome in ("open", "answered")), None)
