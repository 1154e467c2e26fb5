"""Answers about the machine as it is."""

from __future__ import annotations

import os
import sys

from . import loopback
from .asked import Asked, as_root
from .data_answers import data_folder
from .deadline import arm_deadline, forget_deadline
from .facts import interpreters, machine_facts
from .files import remove_tree
from .gpus import gpu_findings
from .job_folder import JobFolder, end_rest
from .json_text import dumps
from .processes import launch_command
from .refusal import TEXT_CHARACTERS, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class MachineAnswers:
    """What there is, how it is watched, and its SSH server's key."""

    def __init__(self, run_id: str, cache: str) -> None:
        self._run_id, self._cache = run_id, cache

    def on_facts(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return machine_facts(self._cache)

    def on_gpus(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return gpu_findings(request["seconds"])

    def on_host_key(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make the key that is to replace the pinned one, or, where the client has written it down, install it."""
        step = dumps({name: request[name] for name in ("pinned", "offered")})
        command = as_root(launch_command(sys.executable, ("-I", "-S", "-B"), "host_key", step))
        done = Asked(command).wait(request["seconds"])
        if done.code != 0:
            words = done.complaint[-TEXT_CHARACTERS:] or "no answer in time"
            raise Refusal("host_key", f"the host key cannot be replaced: {words}")
        return {"host_key": done.words}

    def on_interpreter(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return {"python": interpreters(self._cache).get(request["minor"], "")}

    def on_deadline(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        how = {name: request[name] for name in ("timer", "power_off")}
        # That of another run where this one is on that one's machine.
        return {"by": arm_deadline(request.get("run") or self._run_id, request["seconds"], **how)}

    def on_ports(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Tell which of some ports of this machine's loopback are taken, and which are open to other machines."""
        ports = request["ports"]
        return {"taken": loopback.taken(ports), "open": loopback.open_to_others(ports)}

    def on_alone(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Tell which connection this is, once the one that the client had before it has ended and its ports are free."""
        loopback.end_former(request["former"])
        taken = loopback.await_free(request["ports"]) if request["former"] else []
        return {"connection": loopback.own_connection(), "taken": taken}

    def on_clear(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """End what the job of a run has left running, and forget its folders and its deadline where that is asked for."""
        run_id = os.path.basename(request["run"])
        job = JobFolder.of(run_id)
        end_rest(job)
        if request["folder"]:
            remove_tree(job.path)
            # Its links keep the content from being thrown away, which the next run has links of its own to where it needs it.
            remove_tree(data_folder(run_id))
        if request["deadline"]:
            forget_deadline(run_id)
        return {}
