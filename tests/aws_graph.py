"""What provider="aws" declares, by `pulumi.runtime.set_mocks`: each resource with all of its inputs, without an engine."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

_SECRET, _VALUE = "4dabf18193072939515e22adb298388d", "value"


@dataclass(frozen=True)
class Declared:
    """One resource.

    Attributes:
        type: "aws:ec2/instance:Instance".
        name: in its stack.
        inputs: as the plugin gets them, secrets without their wrapping.
        secrets: names of those inputs that were wrapped.
    """

    type: str
    name: str
    inputs: dict[str, Any]
    secrets: tuple[str, ...]


def declared(spec: Spec, offer: Offer, run: Run) -> tuple[list[Declared], list[dict[str, Any]]]:
    """The resources and the outputs of each machine; in a fork, since what mocks set stays in an interpreter."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "wb") as answer:
                answer.write(json.dumps(_record(spec, offer, run)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as source:
        told = json.loads(source.read())
    os.waitpid(pid, 0)
    found = [
        Declared(type, name, given, tuple(hid)) for type, name, given, hid in told["resources"]
    ]
    return found, told["outputs"]


def _record(spec: Spec, offer: Offer, run: Run) -> dict[str, Any]:
    import asyncio

    import pulumi
    from pulumi.runtime.stack import run_pulumi_func

    seen: list[tuple[str, str, dict[str, Any], list[str]]] = []
    outputs: list[dict[str, Any]] = []

    class Mocks(pulumi.runtime.Mocks):
        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            wrapped = [n for n, v in args.inputs.items() if isinstance(v, dict) and _SECRET in v]
            plain = {n: v[_VALUE] if n in wrapped else v for n, v in args.inputs.items()}
            seen.append((args.typ, args.name, plain, wrapped))
            told = {"publicIp": "203.0.113.5", "privateIp": "10.77.0.5"}
            return f"{args.name}-id", {**args.inputs, **told}

        def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
            return {"value": f"ami of {args.args.get('name')}", "id": "ami-by-name"}

    def program() -> None:
        machines: Any = providers.load("aws").declare(spec, offer, run)
        for machine in machines:
            pulumi.Output.all(**machine).apply(outputs.append)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(Mocks(), project="dayfly", stack=run.id, preview=False)
    loop.run_until_complete(run_pulumi_func(program))
    return {
        "resources": [row for row in seen if row[0] != "pulumi:pulumi:Stack"],
        "outputs": outputs,
    }
