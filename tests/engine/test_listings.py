"""What a plan says of resources: the engine and the recorder agree, and without a vendor's plugin the recorder stands in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly import cluster
from dayfly.errors import PluginMissing, PolicyDenied
from dayfly.infra import providers
from dayfly.infra.plan import Plan
from dayfly.infra.spec import Spec
from dayfly.runtime import listings, preview
from dayfly.runtime.context import Context
from dayfly.runtime.machine_plan import plan_machine
from dayfly.stacks import journal, recorder
from dayfly.stacks.engine import Engine
from tests.emulators import standin, worlds
from tests.engine.client import dayfly, plain_project
from tests.own_machine import own_machine

pytestmark = pytest.mark.engine

_RESOURCES = {
    ("pulumi:providers:aws", "cloud"): 0.0,
    ("aws:ec2/keyPair:KeyPair", "key"): 0.0,
    ("aws:ec2/securityGroup:SecurityGroup", "door"): 0.0,
    ("aws:ec2/instance:Instance", "machine"): 1.0,
    ("aws:ebs/volume:Volume", "disk"): None,
}


@pytest.fixture
def vendor(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """A vendor's provider that has credentials, and no plugin: nor would one be found elsewhere on this computer."""
    monkeypatch.setenv("STANDIN_KEY", "a-key-of-the-stand-in")
    # Only the plugins' place is another one: the CLI itself is where it was.
    monkeypatch.setenv("DAYFLY_ENGINE_HOME", str(tmp_path / "engines"))
    monkeypatch.setenv("PATH", f"{engine.bin_dir}{os.pathsep}{os.environ['PATH']}")
    with standin.known(pytest.MonkeyPatch()):
        yield monkeypatch


@pytest.fixture
def plugin(vendor: pytest.MonkeyPatch) -> Iterator[standin.StandInPlugin]:
    """Its plugin, attached."""
    attached = standin.StandInPlugin()
    attached.start()
    vendor.setenv("PULUMI_DEBUG_PROVIDERS", attached.environment)
    yield attached
    attached.close()


def _prices(plan: Plan) -> dict[tuple[str, str], float | None]:
    return {(each.type, each.name): each.usd_per_hour for each in plan.resources}


def test_the_engine_lists_a_vendor_s_resources_with_their_prices(
    plugin: standin.StandInPlugin,
) -> None:
    """The machine's is the Offer's, a key is free, and of the disk nobody has told one."""
    plan = plan_machine(Spec(provider="standin"))
    assert (plan.resources_from, _prices(plan)) == ("engine", _RESOURCES)
    assert plan.rungs[0].listing.why == ""
    assert ("preview", "aws:ec2/instance:Instance") in plugin.calls
    assert not any(operation == "create" for operation, _ in plugin.calls)
    # A lower rung of the same provider is not listed, unless somebody asks.
    assert [rung.listing.source for rung in plan.rungs] == ["engine", ""]
    assert [rung.worst_case_usd for rung in plan.rungs] == [24.0, 96.0]


@pytest.mark.clouds
def test_all_rungs_are_previewed_where_that_is_asked_for(plugin: standin.StandInPlugin) -> None:
    """Each with its own price; `--json` has them."""
    done = dayfly("plan", "--provider", "standin,local", "--all-rungs", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    listed = [rung["listing"] for rung in told["rungs"]]
    assert [each["source"] for each in listed] == ["engine"] * 3
    prices = [
        [r["usd_per_hour"] for r in each["resources"] if r["name"] in ("machine", "instance")]
        for each in listed
    ]
    assert prices == [[1.0], [4.0], [0.0]]


@pytest.mark.clouds
@pytest.mark.usefixtures("vendor")
def test_without_the_plugin_the_recorder_lists_them_and_the_plan_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is downloaded for a plan; the fix is named. Without credentials it is the same."""
    done = dayfly("plan", "--provider", "standin,local")
    assert done.returncode == 0, done.stderr
    assert "by the recorder" in done.stdout
    assert "dayfly engine install --plugin standin" in done.stdout
    plan = plan_machine(Spec(provider=["standin", "local"]))
    assert (plan.resources_from, _prices(plan)) == ("recorder", _RESOURCES)
    # The first rung of each further provider is listed, beside the first of all.
    assert [rung.listing.source for rung in plan.rungs] == ["recorder", "", "recorder"]
    monkeypatch.delenv("STANDIN_KEY")
    plan = plan_machine(Spec(provider="standin"))
    assert plan.resources_from == "recorder"
    assert "export STANDIN_KEY" in plan.rungs[0].listing.why


@pytest.mark.clouds
@pytest.mark.usefixtures("vendor")
def test_a_run_without_the_plugin_is_refused_before_anything_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where its host cannot be reached: with the command, and the mirror's option; a plan of the function goes."""
    monkeypatch.setenv("PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES", ".*=http://127.0.0.1:9")

    @cluster(provider="standin", environment=[])
    def work() -> int:
        return 1

    assert work.plan().resources_from == "recorder"
    with pytest.raises(PluginMissing, match=r"(?s)engine install --plugin standin.*--server") as no:
        work()
    assert no.value.exit_code == 69
    assert journal.histories(Context.open().workspace.runs, closed=True) == []


@pytest.mark.usefixtures("plugin")
def test_what_the_engine_has_listed_is_known_to_a_fast_plan(engine: Engine) -> None:
    """At the price of its own ladder, marked with the day; what was never listed is not made up."""
    spec = Spec(provider="standin")
    before = plan_machine(spec, fast=True)
    assert (before.resources_from, before.resources) == ("", ())
    assert "nobody has listed" in before.rungs[0].listing.why
    plan_machine(spec)
    fast = plan_machine(spec, fast=True)
    assert (fast.resources_from, _prices(fast)) == ("cache", _RESOURCES)
    assert "the engine has listed" in fast.rungs[0].listing.why
    assert fast.worst_case_usd == before.worst_case_usd == 24.0


def test_the_engine_and_the_recorder_agree_on_every_provider(
    plugin: standin.StandInPlugin,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by listing: on what would be created, and what of it costs how much."""
    attached = "PULUMI_DEBUG_PROVIDERS"
    context = Context.open()
    with worlds.empty() as clouds, own_machine(tmp_path) as host:
        for variable, value in (clouds | host.variables).items():
            monkeypatch.setenv(variable, value)
        for name in providers.names():
            # It declares for AWS's plugin, too.
            at = plugin.environment if name == "standin" else clouds[attached]
            monkeypatch.setenv(attached, at)
            provider = providers.load(name)
            assert not listings.reason_against(provider, engine), name
            spec = Spec(provider=name, host=host.name if "host" in provider.takes else None)
            # What a machine of one's own has, only that knows.
            offers = provider.offers if "host" in provider.takes else provider.catalog_offers
            offer = offers(spec)[0]
            by_engine = preview.resources(context, engine, spec, offer)
            (by_recorder,) = recorder.listings(context.workspace, spec, [offer])
            told = sorted((r["type"], r["name"], r["usd_per_hour"] or -1) for r in by_engine)
            assert told == sorted(
                (r.type, r.name, r.usd_per_hour or -1) for r in by_recorder.resources
            ), name


@pytest.mark.clouds
@pytest.mark.usefixtures("plugin")
def test_the_plain_cli_previews_the_same_resources_and_dollars(tmp_path: Path) -> None:
    """`pulumi preview` from the checkout, of a vendor's provider; a policy of the project binds it, too."""
    project = tmp_path / "project"
    pulumi = plain_project(project)
    plan = plan_machine(Spec(provider="standin"))
    assert pulumi("stack", "init", "dev").returncode == 0
    assert pulumi("config", "set", "dayfly:provider", "standin").returncode == 0
    done = pulumi("preview", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    listed = {
        (step["newState"]["type"], step["urn"].rpartition("::")[2])
        for step in told["steps"]
        if step["newState"]["type"] != "pulumi:pulumi:Stack"
    }
    assert listed == {(each.type, each.name) for each in plan.resources}
    (stack,) = [step for step in told["steps"] if step["newState"]["type"] == "pulumi:pulumi:Stack"]
    outputs = stack["newState"].get("outputs") or {}
    text = pulumi("preview").stdout
    assert f"cost_per_hour_usd: {plan.usd_per_hour:g}" in _spaced(text), (text, outputs)
    assert f"worst_case_usd : {plan.worst_case_usd:g}" in _spaced(text), text
    (project / "pyproject.toml").write_text("[tool.dayfly.policy]\nmax_usd_per_hour = 0.5\n")
    denied = pulumi("preview")
    assert denied.returncode != 0
    assert "max_usd_per_hour = 0.5" in denied.stdout + denied.stderr


def _spaced(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.clouds
@pytest.mark.usefixtures("plugin")
def test_a_policy_looks_at_the_resources_of_every_rung() -> None:
    """Before anything exists; what it denies is not in the ladder, and says why."""

    def no_large_machines(plan: Plan) -> str | None:
        names = {each.name for each in plan.resources}
        assert {"machine", "disk"} <= names
        return "too large" if plan.offers[0]["instance_type"] == "large" else None

    @cluster(provider="standin", environment=[], policies=[no_large_machines])
    def work() -> int:
        return 1

    plan = work.plan()
    assert [offer["instance_type"] for offer in plan.offers] == ["small"]
    assert plan.denied == (
        "standin large in north-1: policy"
        f" {no_large_machines.__qualname__} ({__name__}) denies it: too large",
    )
    assert len(plan.policies) == 1
    with pytest.raises(PolicyDenied, match="not a cent"):
        work.with_options(policies=[lambda _: "not a cent"])()
    assert journal.histories(Context.open().workspace.runs, closed=True) == []
