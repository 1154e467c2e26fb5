"""Where an emulated machine's SSH server listens: DAYFLY_SSH_PORT_MAP, for emulators only.

A cloud gives each machine an address of its own and port 22; an emulator on loopback has one address for all of them,
and keeps a file up to date that says which port is whose. Several emulators' files are named as folders are in PATH.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from dayfly.errors import ConfigurationError

VARIABLE = "DAYFLY_SSH_PORT_MAP"


def endpoint(instance_id: str, host: str, port: int) -> tuple[str, int]:
    """Where to connect for a machine: as the provider says, unless the map knows this instance.

    Args:
        instance_id: the provider's own id.
        host: the address that the provider gives.
        port: the port that goes with it.

    Raises:
        ConfigurationError: the map is set and cannot be read; no real address is tried in its place.
    """
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        found = _place(name, instance_id)
        if found is not None:
            return found
    return host, port


def _place(name: str, instance_id: str) -> tuple[str, int] | None:
    """Where one of the files says that an instance is; None where it does not know it."""
    try:
        entry = json.loads(Path(name).read_text()).get(instance_id)
        return None if entry is None else (str(entry["host"]), int(entry["port"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f'{VARIABLE}={name} is not a JSON object from instance id to {{"host", "port"}} ({error}); it is'
            f" for emulators only: unset it, or let the emulator write it"
        ) from error
