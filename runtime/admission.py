"""Admission: the firewall of a run's machines is told where this computer is now, which may have moved since that was made."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from dayfly.errors import DayflyError
from dayfly.infra import port_map, providers
from dayfly.stacks import account, journal
from dayfly.stacks.journal import History

_KNOCK_S = 5.0


def admit(history: History, note: Callable[[str], None]) -> bool:
    """Lets this computer in, where that can be why machines that live do not answer; journals and says it.

    Args:
        history: the run's; one whose Spec says who may come (`allow_cidr`) is left as it is.
        note: told what was changed, or why nothing could be.

    Returns:
        Whether anything was changed, so that another try may go otherwise.
    """
    if history.intent.get("spec", {}).get("allow_cidr") is not None:
        return False
    changed = False
    for machine in history.machines:
        try:
            account.check(history)
            admitted = providers.load(machine.provider).admit(machine.id)
        except (DayflyError, OSError) as trouble:
            note(f"the firewall of {machine.id} may not let this computer in: {trouble}")
            break
        if admitted:
            changed = True
            note(f"firewall of {machine.id}: now also {admitted}")
            # It has been done; a disk that is full hides it from `dayfly show` only.
            with contextlib.suppress(OSError):
                journal.append(
                    history.directory, "admitted", instance=machine.id, firewall=admitted
                )
    return changed


def knock(history: History, note: Callable[[str], None], node: int = 0) -> None:
    """As `admit`, where a machine of the run does not answer: for what connects to it once, or by itself."""
    machine = history.machine_of(node)
    if machine is None or history.closed or machine.via:
        return
    try:
        place = port_map.endpoint(machine.id, machine.host, machine.port)
        with socket.create_connection(place, _KNOCK_S) as connection:
            answers = connection.recv(4) == b"SSH-"
    except OSError:
        answers = False
    if not answers:
        admit(history, note)
