"""The resources that a program declares, from running it without an engine."""

from __future__ import annotations

import json
import os
from typing import Any

from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import outputs


def resources(spec: Spec, offer: Offer, run: Run) -> list[dict[str, str]]:
    """The resources that the program declares, from running it without an engine.

    In a fork, because the recorder's settings would stay behind in this interpreter.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(_record(spec, offer, run)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as source:
        answer = source.read()
    os.waitpid(pid, 0)
    found: list[dict[str, str]] = json.loads(answer)
    return found


def _record(spec: Spec, offer: Offer, run: Run) -> list[dict[str, str]]:
    import asyncio

    import pulumi
    from pulumi.runtime.stack import run_pulumi_func

    seen: list[dict[str, str]] = []

    class Recorder(pulumi.runtime.Mocks):
        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            seen.append({"type": args.typ, "name": args.name})
            return f"{args.name}-id", args.inputs

        def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
            return {}

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(Recorder(), project="dayfly", stack=run.id, preview=False)

    def program() -> None:
        outputs.export(spec, offer, run)

    loop.run_until_complete(run_pulumi_func(program))
    return [resource for resource in seen if not resource["type"].startswith("pulumi:pulumi:")]
