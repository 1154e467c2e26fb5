"""What a provider declares, with every input as the engine would get it: from running its program under Pulumi's own mocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import forked

# How the engine marks a value that is a secret.
_SIGNATURE, _SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


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
    """Everything that is declared."""
    return whole(spec, offer, run)[0]


def whole(
    spec: Spec,
    offer: Offer,
    run: Run,
    *,
    told: Mapping[str, Any] | None = None,
    answer: Answer = lambda _: {},
) -> tuple[list[Declared], list[dict[str, Any]]]:
    """Everything that is declared, and the outputs of each machine; in a fork: the mocks would stay behind in this interpreter.

    Args:
        spec, offer, run: of which program.
        told: what every resource has of outputs beside its inputs.
        answer: of a function of the SDK's, to its arguments.
    """
    rows, outputs = forked.told(
        "declaring", lambda: _recorded(spec, offer, run, dict(told or {}), answer)
    )
    return [_declared(**row) for row in rows], outputs


def _recorded(
    spec: Spec, offer: Offer, run: Run, told: dict[str, Any], answer: Answer
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    import pulumi
    from google.protobuf import json_format
    from pulumi.runtime import mocks
    from pulumi.runtime.stack import run_pulumi_func

    seen: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []

    class Recorder(pulumi.runtime.Mocks):
        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            return f"{args.name}-id", {**args.inputs, **told}

        def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
            return answer(args.args)

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
        found: Any = providers.load(offer.provider).declare(spec, offer, run)
        # A provider of one machine gives its outputs without a list around them.
        for machine in [found] if isinstance(found, Mapping) else found:
            pulumi.Output.all(**machine).apply(outputs.append)

    loop.run_until_complete(run_pulumi_func(program))
    return [row for row in seen if not row["type"].startswith("pulumi:pulumi:")], outputs


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
