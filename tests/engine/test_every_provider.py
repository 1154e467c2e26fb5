"""The same function everywhere at once, and a ladder over clouds of which only the last has a machine; all worlds are empty afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.infra import providers
from dayfly.infra.spec import Spec
from dayfly.runtime import show
from dayfly.runtime.ladder import ladder
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.emulators.aws import Aws
from tests.emulators.azure import Emulator as Azure
from tests.emulators.gcp import Emulator as Gcp
from tests.emulators.lambda_cloud import Emulator as LambdaCloud
from tests.emulators.lambda_cloud import Options as LambdaOptions
from tests.emulators.worlds import together
from tests.own_machine import OwnMachine, own_machine, reachable

pytestmark = [pytest.mark.engine, pytest.mark.sshd, pytest.mark.long]


@dataclass(frozen=True)
class Clouds:
    """All emulated clouds."""

    lambda_cloud: LambdaCloud
    aws: Aws
    azure: Azure
    gcp: Gcp

    @property
    def left(self) -> dict[str, Any]:
        """What is in any of them."""
        found = {
            "lambda": self.lambda_cloud.live(),
            "aws": self.aws.left(),
            "azure": self.azure.world.all(),
            "gcp": self.gcp.rows(),
        }
        return {name: rows for name, rows in found.items() if rows}


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    """As the environment tells of them."""
    with (
        LambdaCloud(LambdaOptions(time_scale=20)) as lambda_cloud,
        Aws() as aws,
        Azure() as azure,
        Gcp(create_s=3.0) as gcp,
    ):
        found = Clouds(lambda_cloud, aws, azure, gcp)
        worlds = [each.environment() for each in (lambda_cloud, aws, azure, gcp)]
        for name, value in together(*worlds).items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnMachine]:
    """A machine of one's own."""
    with own_machine(tmp_path) as made, reachable(made, monkeypatch):
        yield made


def test_the_same_function_gives_the_same_on_every_provider_at_once(
    clouds: Clouds, host: OwnMachine
) -> None:
    """From one process, side by side: equal results, each with the provenance of its own machine and a receipt that nothing is left."""

    @cluster(environment=[], time="30m")
    def work(numbers: list[int]) -> dict[str, Any]:
        return {"total": sum(numbers), "run": os.environ["DAYFLY_RUN"]}

    own: dict[str, dict[str, Any]] = {"ssh": {"host": host.name}}
    jobs = {
        name: work.with_options(provider=name, **own.get(name, {})).submit([1, 2, 3])
        for name in providers.names()
    }
    assert set(jobs) >= {"aws", "azure", "gcp", "lambda", "local", "ssh"}
    values = {name: job.result(timeout=540) for name, job in jobs.items()}
    receipts = {name: job.receipt(timeout=300) for name, job in jobs.items()}
    assert {name: value["total"] for name, value in values.items()} == dict.fromkeys(jobs, 6)
    assert {name: value["run"] for name, value in values.items()} == {
        name: job.id for name, job in jobs.items()
    }
    told = {name: show.provenance(journal.read(job.directory)) for name, job in jobs.items()}
    assert len({each["instance_id"] for each in told.values()}) == len(jobs)
    for name, job in jobs.items():
        history, machine = journal.read(job.directory), told[name]
        offer = history.intent["offer"]
        assert (history.provider, machine["instance_type"]) == (name, offer["instance_type"])
        assert machine["host"], name
        assert (receipts[name].provider, receipts[name].left) == (name, 0)
        assert (receipts[name].usd > 0) == (offer["usd_per_hour"] > 0), name
    assert clouds.left == {}
    assert host.is_clean


def test_a_run_ends_on_the_third_cloud_where_two_have_no_capacity(
    workspace: Workspace, engine: Engine, clouds: Clouds
) -> None:
    """Each says so in its own words; of the rungs below nothing stays, and they have cost nothing."""
    spec = Spec(provider=["aws", "azure", "gcp"], gpu="T4:1", max_runtime="30m")
    offers = [next(o for o in ladder(spec) if o.provider == name) for name in spec.providers]
    first = offers[0]
    zones = clouds.aws.zones(first.region, first.instance_type)
    clouds.aws.set_capacity(first.instance_type, zones, 0)
    clouds.azure.fault("AllocationFailed", late=True)
    told: list[str] = []

    def observe(event: journal.Event) -> None:
        if event.name == "progress":
            told.append(str(event.fields["text"]))

    stack = RunStack(spec, workspace, engine, offers, observe=observe)
    with stack as machine:
        assert (machine.provider, machine.region) == ("gcp", offers[2].region)
    missed = [text for text in told if text.startswith("no capacity: ")]
    words = ("api error InsufficientInstanceCapacity", "AllocationFailed")
    assert [word in text for word, text in zip(words, missed, strict=True)] == [True, True]
    receipts = [Receipt.of(each) for each in workspace.runs.iterdir()]
    billed = {each.provider: each.usd > 0 for each in receipts if each is not None}
    # A machine that Azure has accepted and could not place is billed as one that there may have been.
    assert (billed["aws"], billed["gcp"], len(receipts)) == (False, True, 3)
    assert [each.left for each in receipts if each is not None] == [0, 0, 0]
    assert clouds.left == {}
