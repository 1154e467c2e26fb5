"""The resources that a program declares, from running it without an engine.

`python -m dayfly.stacks.recorder` does so for many rungs of a ladder, which come on its stdin: whoever plans them has no Pulumi
in its own interpreter, and a provider's SDK, which takes its second to be imported, is imported once.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dayfly.infra import providers
from dayfly.infra.listing import Listing
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import forked, outputs
from dayfly.stacks.workspace import Workspace

_LIMIT_S = 120.0


def listings(workspace: Workspace, spec: Spec, offers: Sequence[Offer]) -> list[Listing]:
    """What each of these rungs would create, from a process of its own.

    A rung whose program cannot be run has an empty listing, with the reason.
    """
    request = {
        "spec": spec.as_dict(),
        "offers": [offer.as_dict() for offer in offers],
        "owner": workspace.owner,
        "runs": str(workspace.runs),
    }
    environment = workspace.bare_environment()
    for name in dict.fromkeys(offer.provider for offer in offers):
        environment |= workspace.credentials(providers.load(name))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dayfly.stacks.recorder"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"listing them without the engine took more than {_LIMIT_S:.0f} s"
        return [Listing(why=reason)] * len(offers)
    try:
        told = [_listing(answer) for answer in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["and said nothing"])[-1]
        reason = f"listing them without the engine ended with {done.returncode}: {last}"
        return [Listing(why=reason)] * len(offers)
    return told


def _listing(answer: dict[str, Any]) -> Listing:
    if "error" in answer:
        return Listing(why=f"listing them without the engine failed: {answer['error']}")
    return Listing.of(answer["value"], "recorder")


def resources(spec: Spec, offer: Offer, run: Run) -> list[dict[str, Any]]:
    """The resources that the program declares, from running it without an engine.

    In a fork, because the recorder's settings would stay behind in this interpreter.

    Returns:
        {"type", "name", "usd_per_hour"} of each.

    Raises:
        RuntimeError: the program cannot be run; has its own error.
    """
    found: list[dict[str, Any]] = forked.told(
        "listing the resources", functools.partial(_record, spec, offer, run)
    )
    return found


def _record(spec: Spec, offer: Offer, run: Run) -> list[dict[str, Any]]:
    import asyncio

    import pulumi
    from pulumi.runtime.stack import run_pulumi_func

    seen: list[tuple[str, str]] = []

    class Recorder(pulumi.runtime.Mocks):
        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            seen.append((args.typ, args.name))
            return f"{args.name}-id", args.inputs

        def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
            return {}

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(Recorder(), project="dayfly", stack=run.id, preview=False)
    priced = outputs.Priced(offer)

    def program() -> None:
        priced.look_at(outputs.export(spec, offer, run))

    loop.run_until_complete(run_pulumi_func(program))
    loop.close()
    return priced.of([each for each in seen if not each[0].startswith("pulumi:pulumi:")])


def main() -> int:
    """Answers for each rung, in one line."""
    request = json.loads(sys.stdin.read())
    # What a provider's own code prints must not be taken for the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    spec, run_id = Spec(**request["spec"]), new_id()
    directory = Path(request["runs"]) / run_id
    run = Run(run_id, request["owner"], 0.0, spec.max_runtime_s, directory, "", "")
    told = [
        forked.answer(functools.partial(_record, spec, Offer(**values), run))
        for values in request["offers"]
    ]
    print(json.dumps(told), file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
