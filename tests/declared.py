"""What a provider declares, with every input as the engine would get it: from running its program under Pulumi's own mocks."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

# How the engine marks a value that is a secret.
_SIGNATURE, _SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"


@dataclass(frozen=True)
class Declared:
    """One resource.

    Attributes:
        type: "azure-native:compute:VirtualMachine".
        name: in the stack.
        inputs: as the engine gets them; `Secret` values unwrapped.
        secrets: paths of those that are secrets: "osProfile.customData".
    """

    type: str
    name: str
    inputs: dict[str, Any]
    secrets: tuple[str, ...]


def by(spec: Spec, offer: Offer, run: Run) -> list[Declared]:
    """Everything that is declared, in a fork: the mocks would stay behind in this interpreter."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(writing, "w") as answer:
                json.dump(_recorded(spec, offer, run), answer)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as source:
        text = source.read()
    os.waitpid(pid, 0)
    assert text, "the program has failed; see above"
    return [_declared(**row) for row in json.loads(text)]


def _recorded(spec: Spec, offer: Offer, run: Run) -> list[dict[str, Any]]:
    import pulumi
    from google.protobuf import json_format
    from pulumi.runtime import mocks
    from pulumi.runtime.stack import run_pulumi_func

    seen: list[dict[str, Any]] = []

    class Recorder(pulumi.runtime.Mocks):
        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            return f"{args.name}-id", args.inputs

        def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
            return {}

    class Monitor(mocks.MockMonitor):
        def RegisterResource(self, request: Any) -> Any:
            inputs = json_format.MessageToDict(request.object)
            seen.append({"type": request.type, "name": request.name, "inputs": inputs})
            return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    recorder = Recorder()
    pulumi.runtime.set_mocks(
        recorder, project="dayfly", stack=run.id, preview=False, monitor=Monitor(recorder)
    )

    def program() -> None:
        providers.load(offer.provider).declare(spec, offer, run)

    loop.run_until_complete(run_pulumi_func(program))
    return [row for row in seen if not row["type"].startswith("pulumi:pulumi:")]


def _declared(type: str, name: str, inputs: dict[str, Any]) -> Declared:
    secrets = list[str]()
    plain = _plain(inputs, "", secrets)
    return Declared(type, name, plain, tuple(secrets))


def _plain(value: Any, path: str, secrets: list[str]) -> Any:
    if isinstance(value, dict) and value.get(_SIGNATURE) == _SECRET:
        secrets.append(path.removeprefix("."))
        return _plain(value.get("value"), path, secrets)
    if isinstance(value, dict):
        return {name: _plain(each, f"{path}.{name}", secrets) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, path, secrets) for each in value]
    return value
