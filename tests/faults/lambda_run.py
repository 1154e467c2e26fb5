"""A run on Lambda Cloud without the engine: the provider's own resources in the order of the stack, and the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dayfly.errors import DayflyError
from dayfly.infra import providers, run_names
from dayfly.infra.lambda_resources import (
    InstanceProvider,
    KeyProvider,
    ReadyProvider,
    RulesetProvider,
)
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime.context import Context
from dayfly.stacks import intent, journal
from dayfly.stacks.closer import Closer
from dayfly.stacks.receipt import Receipt
from tests.faults.lambda_world import World

SPEC = Spec(provider="lambda", instance_type="gpu_1x_a10", region="us-east-1")


@dataclass
class LambdaRun:
    """One of them.

    Attributes:
        world: the cloud.
        run: its identity, as in the journal.
        spec: what was asked for.
        offer: what is launched.
        made: what the engine would have in its state: how to delete each, the latest last.
    """

    world: World
    run: Run
    spec: Spec
    offer: Offer
    made: list[Callable[[], None]]

    @classmethod
    def begin(cls, world: World, spec: Spec = SPEC) -> LambdaRun:
        """Step 1 and 2: an Offer from the live API, and the written intent.

        Raises:
            DayflyError: there is no Offer; nothing exists.
        """
        offer = providers.load("lambda").offers(spec)[0]
        workspace, id = Context.open().workspace, new_id()
        run = intent.write(workspace, id, spec, offer, client=journal.myself(), function="t:f")
        return cls(world, run, spec, offer, [])

    @property
    def id(self) -> str:
        """Of the run."""
        return self.run.id

    def up(self) -> None:
        """Step 3 and 4, as the engine does it.

        Raises:
            DayflyError: a resource could not be made.
        """
        run = self.run
        journal.append(run.directory, "up_started", program=journal.myself())
        name, region = run_names.of(run), self.offer.region
        self._make(KeyProvider(), {"name": name, "public_key": f"{run.public_key} {run.owner}"})
        given = {"name": name, "region": region, "allow_cidr": None, "ruleset": None}
        ruleset = self._make(RulesetProvider(), given)
        instance = self._make(InstanceProvider(), self._instance(name, ruleset["ruleset"]))
        rate = self.offer.usd_per_hour
        journal.append(run.directory, "launched", id=instance["id"], usd_per_hour=rate)
        self.world.open_door(instance["id"])
        self._make(ReadyProvider(), {"instance": instance["id"]})

    def _instance(self, name: str, ruleset: str) -> dict[str, Any]:
        return {
            "name": f"dayfly-{self.id[:12]}-{int(self.run.deadline)}",
            "region": self.offer.region,
            "instance_type": self.offer.instance_type,
            "ssh_key": name,
            "rulesets": [ruleset],
            "file_systems": list(self.spec.file_systems),
            "tags": self.run.tags,
            "user_data": "#cloud-config\n",
        }

    def _make(self, provider: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        identity = {
            "run": self.id,
            "owner": self.run.owner,
            "deadline": int(self.run.deadline),
            "directory": str(self.run.directory),
        }
        made = provider.create({**identity, **inputs})
        self.made.append(lambda: provider.delete(made.id, made.outs))
        return {**made.outs, "id": made.id}

    def delete(self) -> bool:
        """What the engine's destroy does, in reverse; False where one of them failed and the rest is kept."""
        with contextlib.suppress(DayflyError):
            while self.made:
                self.made[-1]()
                self.made.pop()
            return True
        return False

    def close(self) -> Receipt:
        """Step 8 from the journal alone.

        Raises:
            LeakRisk: absence could not be proved.
        """
        return Closer(Context.open().workspace, None).close(self.id)
