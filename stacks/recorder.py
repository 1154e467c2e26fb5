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

    Raises:
        RuntimeError: the program cannot be run; has its own error.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "wb") as answer:
                answer.write(json.dumps(_answer(spec, offer, run)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as source:
        text = source.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        code = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"listing the resources ended with {code} and without a word")
    told: dict[str, Any] = json.loads(text)
    if "error" in told:
        raise RuntimeError(told["error"])
    found: list[dict[str, str]] = told["resources"]
    return found


def _answer(spec: Spec, offer: Offer, run: Run) -> dict[str, Any]:
    """What the fork has to tell: the resources, or the error that only it has seen."""
    try:
        return {"resources": _record(spec, offer, run)}
    except BaseException as error:  # noqa: BLE001  # the process ends here, and with it whatever is not told
        return {"error": f"{type(error).__name__}: {error}"}


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
