"""The program that a run declares at Lambda Cloud: exactly these resources, of the run by tag or by name, closed but for one network,
with one secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import lambda_account, providers, run_names
from dayfly.infra.dynamic import DynamicProvider
from dayfly.infra.lambda_resources import (
    InstanceProvider,
    KeyProvider,
    ReadyProvider,
    RulesetProvider,
)
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec
from dayfly.stacks import recorder
from dayfly.stacks.intent import make_key
from tests import declared
from tests.declared import Declared
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options

OFFER = Offer("lambda", "us-east-1", "gpu_1x_a10", 30, 200 << 30, 0.75, 1, "A10")
CALLER = "203.0.113.7/32"
_DYNAMIC = "pulumi-python:dynamic/dayfly"
_TYPES = {
    "key": f"{_DYNAMIC}:LambdaKey",
    "ruleset": f"{_DYNAMIC}:LambdaRuleset",
    "instance": f"{_DYNAMIC}:LambdaInstance",
    "ready": f"{_DYNAMIC}:LambdaReady",
}
_PROVIDERS: dict[str, type[DynamicProvider]] = {
    "key": KeyProvider,
    "ruleset": RulesetProvider,
    "instance": InstanceProvider,
    "ready": ReadyProvider,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that is about to be brought up, with its keys."""
    public, host = make_key(tmp_path / "user_key"), make_key(tmp_path / "host_key")
    return Run("a" * 32, "me", 1000.0, 4600.0, tmp_path, public, host)


def graph(run: Run, **options: Any) -> tuple[dict[str, Declared], list[Any]]:
    """The resources by name, and the outputs of each machine."""
    spec = Spec(provider="lambda", **{"allow_cidr": CALLER, **options})
    told = {
        "host": "198.51.100.7",
        "inner_host": "10.0.0.7",
        "ready_after_s": 1.5,
        "ruleset": "ruleset-made",
        "allowed": f"22/tcp from {CALLER} (allow_cidr)",
    }
    found, outputs = declared.whole(spec, OFFER, run, told=told)
    return {each.name: each for each in found}, outputs


def test_it_is_a_key_a_ruleset_a_machine_and_the_wait_for_it(run: Run) -> None:
    """Each made by its own class and by no other; what is exported is what the wait has found."""
    found, (machine,) = graph(run)
    assert {name: each.type for name, each in found.items()} == _TYPES
    for name, each in found.items():
        assert each.inputs["__provider"] == _PROVIDERS[name].reference(), name
    assert (machine["id"], machine["host"], machine["inner_host"], machine["port"]) == (
        "instance-id",
        "198.51.100.7",
        "10.0.0.7",
        22,
    )
    assert (machine["host_key"], machine["host_key_bootstrap"]) == (run.host_key, True)
    assert machine["firewall"] == f"22/tcp from {CALLER} (allow_cidr)"


def test_everything_is_known_to_be_the_run_s(run: Run) -> None:
    """A machine by its tags; a key and a ruleset, which have none at Lambda, by names that tell the same."""
    found, _ = graph(run)
    assert found["instance"].inputs["tags"] == run.tags
    for name in ("key", "ruleset"):
        told = run_names.tags_in(found[name].inputs["name"], run.owner, run.owner)
        assert told == {n: v for n, v in run.tags.items() if n != "dayfly-created"}, name
    assert found["instance"].inputs["name"] == f"dayfly-{run.id[:12]}-4600"
    for name, each in found.items():
        identity = {n: each.inputs[n] for n in ("run", "owner", "deadline", "directory")}
        assert identity == {
            "run": run.id,
            "owner": "me",
            "deadline": 4600,
            "directory": str(run.directory),
        }, name


def test_the_machine_is_the_offer_s_behind_the_run_s_own_key_and_ruleset(run: Run) -> None:
    """It names both by what their making has given, so that it comes after them."""
    inputs = graph(run, file_systems=["data"])[0]["instance"].inputs
    assert (inputs["region"], inputs["instance_type"]) == ("us-east-1", "gpu_1x_a10")
    assert (inputs["ssh_key"], inputs["rulesets"]) == (run_names.of(run), ["ruleset-made"])
    assert inputs["file_systems"] == ["data"]
    assert "image" not in inputs
    with_image = graph(run, image="lambda-stack-24-04")[0]["instance"].inputs
    assert with_image["image"] == "lambda-stack-24-04"


def test_the_user_data_is_a_secret_and_nothing_else_has_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the account's key nor the private half of the user's own is among what is declared."""
    monkeypatch.setenv("LAMBDA_API_KEY", "hunter2")
    found, outputs = graph(run)
    assert found["instance"].secrets == ("user_data",)
    assert not [name for name, each in found.items() if each.secrets and name != "instance"]
    host_key = (run.directory / "host_key").read_text().splitlines()[1]
    user_key = (run.directory / "user_key").read_text().splitlines()[1]
    assert host_key in found["instance"].inputs.pop("user_data")
    text = json.dumps([[each.inputs for each in found.values()], outputs])
    assert run.public_key in text
    assert not [secret for secret in (host_key, user_key, "hunter2") if secret in text]


def test_several_machines_share_key_and_ruleset(run: Run) -> None:
    """The first is as it was when there was no other; each is waited for by itself."""
    for node in (1, 2):
        file = run.host_key_file(node)
        file.with_suffix(".pub").write_text(make_key(file))
    found, machines = graph(run, nodes=3)
    assert set(found) == {
        *("key", "ruleset", "instance", "ready"),
        *("instance-1", "ready-1", "instance-2", "ready-2"),
    }
    assert "node" not in found["instance"].inputs
    for node in (1, 2):
        inputs = found[f"instance-{node}"].inputs
        assert (inputs["node"], inputs["tags"]) == (node, run.tags)
        assert inputs["rulesets"] == ["ruleset-made"]
        assert found[f"instance-{node}"].secrets == ("user_data",)
        assert found[f"ready-{node}"].inputs["instance"] == f"instance-{node}-id"
    assert len({each["host_key"] for each in machines}) == 3


@pytest.mark.process
@pytest.mark.parametrize(
    ("asked", "cidr"),
    [(CALLER, CALLER), (None, "127.0.0.1/32")],
    ids=["allow_cidr", "own address"],
)
def test_the_ruleset_that_is_made_of_it_lets_one_network_in(
    run: Run, monkeypatch: pytest.MonkeyPatch, asked: str | None, cidr: str
) -> None:
    """To port 22 and to nothing else: what is named, or the address from which this computer reaches the cloud."""
    found, _ = graph(run, allow_cidr=asked)
    assert found["ruleset"].inputs.get("allow_cidr") == asked
    with Emulator(Options(machines=False)) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        inputs = {**found["ruleset"].inputs, "deadline": 2.0**40}
        made = RulesetProvider().create(inputs)
        (ruleset,) = [row for row in lambda_account.api().rulesets() if row.id == made.id]
        rules = [(r["protocol"], r["port_range"], r["source_network"]) for r in ruleset.rules]
        assert rules == [("tcp", [22, 22], cidr)]
        assert not [value for value in made.outs.values() if "0.0.0.0/0" in str(value)]
        RulesetProvider().delete(made.id, made.outs)


def test_the_recorder_lists_the_same(run: Run) -> None:
    """What `dayfly plan` shows without an engine."""
    spec = Spec(provider="lambda", allow_cidr=CALLER)
    listed = recorder.resources(spec, OFFER, run)
    assert {each["name"]: each["type"] for each in listed} == _TYPES
    free = providers.load("lambda").free
    assert {each["type"] for each in listed} - free == {_TYPES["instance"]}
