"""The floor of a cold call: the least that a plain automation-API script does for the same value.

Two dynamic resources (an sshd of its own, the wait for its banner), the same engine and kind of state, `python3 -c`
over the system's ssh; no plan, no journal, no proof. Run as `python -m benchmarks.floor FOLDER NAME`.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider

from benchmarks import sshd

_PROJECT = "floor"


class ServerProvider(ResourceProvider):
    """The machine."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        pid, port = sshd.start(Path(props["folder"]))
        return CreateResult(str(pid), {"folder": props["folder"], "port": port})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        sshd.stop(int(_id))


class AnswerProvider(ResourceProvider):
    """The wait until it answers."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        port = int(props["port"])
        return CreateResult("ready", {"port": port, "banner": sshd.wait_for_banner(port)})


class Server(Resource):
    """The machine, as a resource."""

    port: pulumi.Output[float]


class Answer(Resource):
    """The wait, as a resource."""

    port: pulumi.Output[float]


def program(folder: Path) -> None:
    """What the stack consists of."""
    server = Server(ServerProvider(), "server", {"folder": str(folder), "port": None})
    answer = Answer(AnswerProvider(), "answer", {"port": server.port, "banner": None})
    pulumi.export("port", answer.port)


def variables(folder: Path) -> dict[str, str]:
    """The same kind of state and the same switches of the engine as ours."""
    passphrase = folder / "passphrase"
    if not passphrase.exists():
        passphrase.write_text(secrets.token_hex(32) + "\n")
    (folder / "state").mkdir(exist_ok=True)
    return {
        "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        "PULUMI_PYTHON_CMD": sys.executable,
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "1",
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109  # a string is wanted
    }


def main(folder: Path, name: str) -> None:
    """Keys, the import of Pulumi and finding the CLI are not counted, and neither is destroying: the clock is against us."""
    from pulumi import automation

    machine = folder / name
    machine.mkdir()
    sshd.make_keys(machine)
    options = automation.LocalWorkspaceOptions(
        env_vars=variables(folder),
        pulumi_home=str(folder / "pulumi"),
        pulumi_command=automation.PulumiCommand(),
    )

    began = time.perf_counter()
    stack = automation.create_stack(
        name, project_name=_PROJECT, program=lambda: program(machine), opts=options
    )
    try:
        port = int(stack.up().outputs["port"].value)
        command = sshd.client(machine, port, "python3 -c 'print(21 * 2)'")
        value = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        took_s = time.perf_counter() - began
    finally:
        stack.destroy()
        stack.workspace.remove_stack(name)
    print(json.dumps({"value": int(value), "seconds": took_s}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
