"""Policies: each denies with a reason before anything exists, whichever layer sets it, and for every rung."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import (
    ConfigurationError,
    DayflyError,
    NoCapacity,
    PolicyDenied,
    SpecError,
)
from dayfly.infra import caller, policy, providers
from dayfly.infra.ingress import OWN_ADDRESS, PRIVATE_VARIABLE, is_public, networks_in
from dayfly.infra.listing import Listing, Resource
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.infra.planning import make_plan
from dayfly.infra.providers.local import Local
from dayfly.infra.spec import Spec
from dayfly.runtime import doctor, listing_cache, listings, wording
from dayfly.runtime.context import Context
from dayfly.runtime.machine_plan import plan_machine
from dayfly.stacks import journal, settings
from dayfly.stacks.engine import Engine
from dayfly.stacks.policies import Policies
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace
from tests.engine.client import dayfly
from tests.runs import OFFER

_OFFER = dataclasses.replace(OFFER, provider="lambda", region="us-east-1", instance_type="gpu_1x")


def _plan(offer: Offer = _OFFER, **options: Any) -> Plan:
    return make_plan(Spec(provider="lambda", max_runtime="10h", **options), [offer])


@pytest.mark.parametrize(
    ("name", "value", "plan", "reason"),
    [
        ("max_usd_per_hour", 3.6, _plan(), ""),
        ("max_usd_per_hour", 3.59, _plan(), "$3.6/h"),
        ("max_usd_per_hour", 3.6, _plan(nodes=2), "$7.2/h"),
        ("max_worst_case_usd", 36, _plan(), ""),
        ("max_worst_case_usd", 35, _plan(), "$36 at worst"),
        ("max_worst_case_usd", 36, _plan(retries=1), "$72 at worst, 2 attempts"),
        ("providers", ["aws", "lam*"], _plan(), ""),
        ("providers", "aws", _plan(), "lambda"),
        ("regions", ["us-*"], _plan(), ""),
        ("regions", ["eu-*"], _plan(), "us-east-1"),
        (
            "regions",
            "us-*",
            _plan(dataclasses.replace(_OFFER, region="any")),
            "its region is not known yet; name one",
        ),
        ("regions", "*", _plan(dataclasses.replace(_OFFER, region="any")), ""),
        ("instance_types", ["gpu_1x*"], _plan(), ""),
        ("instance_types", ["gpu_8x*"], _plan(), "gpu_1x"),
        ("spot", False, _plan(), ""),
        ("spot", True, _plan(), "on demand"),
        ("spot", False, _plan(dataclasses.replace(_OFFER, spot=True)), "spot"),
        ("public_ingress", False, _plan(), ""),
        ("public_ingress", False, _plan(allow_cidr="203.0.113.0/24"), ""),
        (
            "public_ingress",
            False,
            _plan(allow_cidr="0.0.0.0/0"),
            "22/tcp would be open to 0.0.0.0/0",
        ),
        ("public_ingress", True, _plan(allow_cidr="0.0.0.0/0"), ""),
    ],
)
def test_each_policy_of_the_settings(name: str, value: Any, plan: Plan, reason: str) -> None:
    """What it lets pass, and the reason where it does not."""
    (found,) = policy.of_table({name: value}, "a file")
    assert found.reason_against(plan) == reason
    assert str(found) == f"{name} = {value!r} (a file)"


@pytest.mark.parametrize(
    ("firewall", "networks"),
    [
        ("", []),
        ("22/tcp from 203.0.113.7/32 (this computer's own address)", ["203.0.113.7/32"]),
        ("22/tcp from 0.0.0.0/0 (its own address is not 203.0.113.7/32)", ["0.0.0.0/0"]),
        (
            "none: us-south-1 has no firewall rulesets, so that port 22 may be open to all",
            ["0.0.0.0/0"],
        ),
        ("in words that nobody knows", ["0.0.0.0/0"]),
    ],
)
def test_whom_a_firewall_lets_in(firewall: str, networks: list[str]) -> None:
    """Of one that says nothing of networks: everybody."""
    assert networks_in(firewall) == networks


@pytest.mark.parametrize(
    ("network", "public"),
    [
        *(("0.0.0.0/0", True), ("0.0.0.0/1", True), ("128.0.0.0/1", True), ("203.0.0.0/8", True)),
        *(("10.0.0.0/8", False), ("130.60.0.0/16", False), ("203.0.113.7/32", False)),
        (OWN_ADDRESS, False),
    ],
)
def test_what_the_public_is(network: str, public: bool) -> None:
    """Half of the internet is the internet."""
    assert is_public(network) is public


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"max_usd_per_hour": 0}, "must be a number of dollars above 0"),
        ({"max_usd_per_hour": "5"}, "must be a number of dollars"),
        ({"max_usd_per_hour": True}, "must be a number of dollars"),
        ({"regions": []}, "a name or a list of names"),
        ({"regions": [1]}, "a name or a list of names"),
        ({"spot": "no"}, "true or false"),
        ({"max_usd_per_hours": 5}, "did you mean 'max_usd_per_hour'"),
        ("none", "must be a table"),
    ],
)
def test_a_policy_that_cannot_be_is_named_with_its_file(table: Any, words: str) -> None:
    """And what it takes: a policy with a slip of the pen must not let everything pass."""
    with pytest.raises(ConfigurationError, match=r"^a file: ") as refused:
        policy.of_table(table, "a file")
    assert words in str(refused.value)


def _asserts(plan: Plan) -> None:
    assert plan.usd_per_hour < 1, "not for so much"


def _raises(_: Plan) -> None:
    raise PolicyDenied("by law")


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (lambda _: None, ""),
        (lambda _: True, ""),
        (lambda _: False, "it said no"),
        (lambda _: "too dear", "too dear"),
        (lambda _: "", "it gave an empty reason"),
        (_asserts, "not for so much"),
        (_raises, "by law"),
    ],
)
def test_what_a_function_may_say(check: Callable[[Plan], object], reason: str) -> None:
    """Two words for yes; all others are no."""
    assert policy.of_callable(check).reason_against(_plan()).split("\n")[0] == reason


@pytest.mark.parametrize("check", [lambda plan: 1 / 0, lambda plan: plan.no_such, lambda plan: 0])
def test_a_broken_policy_lets_nothing_pass(check: Callable[[Plan], object]) -> None:
    """Neither by an error of its own nor by an answer that is none."""
    with pytest.raises(PolicyDenied, match="nothing was created"):
        policy.of_callable(check).reason_against(_plan())


def _layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, project: str) -> None:
    file = settings.user_file()
    file.parent.mkdir(parents=True)
    file.write_text(user)
    (tmp_path / "pyproject.toml").write_text(project)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("own", "theirs"), [(5, 1), (1, 5)])
def test_no_layer_takes_back_what_another_asks_for(
    own: int, theirs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strictest decides: neither a project that somebody else has written, nor its user, loosens the other's."""
    _layers(
        tmp_path,
        monkeypatch,
        f"[policy]\nmax_usd_per_hour = {own}\n",
        f"[tool.dayfly]\ncores = 1\n[tool.dayfly.policy]\nmax_usd_per_hour = {theirs}\n",
    )
    found = settings.load()
    assert found.spec_options() == {"cores": 1}
    policies = Policies.of(found)
    assert "max_usd_per_hour = 1" in policies.reason_against(_plan())
    assert len([c for c in doctor.examine().checks if c.name == "policy"]) == 2
    with pytest.raises(PolicyDenied):
        policies.check(_plan())


def test_a_rung_that_is_denied_is_not_in_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan says which and why; where none is left it is refused, with the reason against each, and its exit code."""
    _layers(
        tmp_path,
        monkeypatch,
        "[policy]\nmax_usd_per_hour = 2.5\n",
        '[tool.dayfly.policy]\nproviders = ["lam*"]\n',
    )
    spec = Spec(provider=["local", "lambda"], max_runtime="1h", instance_type=None)
    plan = plan_machine(spec, fast=True)
    assert {offer["provider"] for offer in plan.offers} == {"lambda"}
    assert plan.denied[0].startswith("local this-computer")
    assert len(plan.policies) == 2
    denied = dayfly("plan", "--fast", "--provider", "local")
    assert denied.returncode == 77, denied.stderr
    assert "providers = ['lam*']" in denied.stderr
    assert "nothing was created" in denied.stderr
    refused = dayfly("run", "--provider", "local", "--environment", "live", "builtins:abs", "3")
    assert (refused.returncode, "policy" in refused.stderr) == (77, True)
    assert journal.histories(Context.open().workspace.runs, closed=True) == []


def test_resources_that_cannot_be_listed_are_not_let_pass() -> None:
    """A policy that counts them would find none too many."""
    policies = Policies((policy.of_callable(lambda _: None),))
    unlisted = make_plan(Spec(provider="lambda"), [_OFFER], [Listing(why="no SDK")])
    assert policies.reason_against(unlisted).endswith("could not be listed: no SDK")
    listed = make_plan(Spec(provider="lambda"), [_OFFER], [Listing(source="recorder")])
    assert policies.reason_against(listed) == ""


def test_a_function_s_policies_come_on_top_and_are_only_added_to() -> None:
    """Also by whoever calls it with other options; none is a part of the Spec, and what is none is refused where it is written."""
    seen = list[str]()

    def note(plan: Plan) -> None:
        seen.append(plan.offers[0]["instance_type"])

    @cluster(environment=[], policies=[note])
    def work() -> int:
        return 1

    assert work.policies == (note,)
    assert "policies" not in work.spec.as_dict()
    # Of resources that nobody has listed it judges nothing, and nobody lists them for a fast plan.
    fast = work.plan_fast()
    assert (fast.policies, fast.unjudged) == ((), (f"{note.__qualname__} ({__name__})",))
    assert seen == []
    assert any("not judged in a fast plan" in text for _, text in wording.plan_rows(fast))
    assert not (Context.open().workspace.home / "cache" / "listings").exists()
    context, spec = Context.open(), work.spec
    offers = providers.load("local").offers(spec)
    listing_cache.write(
        context.workspace.home, spec, offers[0], Listing((Resource("t:M", "m"),), "engine")
    )
    fast = work.plan_fast()
    assert (fast.policies, fast.unjudged) == ((f"{note.__qualname__} ({__name__})",), ())
    assert seen == ["this-computer"]
    stricter = work.with_options(cores=1, policies=[_raises])
    assert stricter.policies == (note, _raises)
    with pytest.raises(PolicyDenied, match="by law"):
        stricter()
    assert journal.histories(Context.open().workspace.runs, closed=True) == []
    for wrong in ("note", [1]):
        with pytest.raises(SpecError, match="must be a list of functions"):
            cluster(policies=wrong)  # type: ignore[arg-type]
    with pytest.raises(PolicyDenied), work.with_options(policies=[_raises]).session():
        raise AssertionError("it has begun")


def test_a_run_s_policies_see_what_would_be_made_now() -> None:
    """What was listed before may have been another account's, or of before it changed."""
    context, spec = Context.open(), Spec(environment=[])
    (offer, *_) = providers.load("local").offers(spec)
    was = Listing((Resource("t:Gone", "gone"),), "engine")
    listing_cache.write(context.workspace.home, spec, offer, was)
    (found,) = listings.recorded(context, spec, [offer])
    assert found.source == "recorder"
    assert "gone" not in {each.name for each in found.resources}


class _Elsewhere(Local):
    """Refuses, and names another region."""

    def regions_named(self, error: str) -> list[str]:
        return ["forbidden"]


def test_a_rung_that_a_refusal_names_is_asked_about_too(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    """It was in no ladder that anybody has looked at."""
    here = _Elsewhere()
    monkeypatch.setattr(providers, "load", lambda _: here)
    asked = list[str]()

    def permit(offer: Offer) -> None:
        asked.append(offer.region)
        if offer.region == "forbidden":
            raise PolicyDenied("policy regions denies it")

    def up(self: RunStack, offer: Offer) -> None:
        raise NoCapacity("full")

    monkeypatch.setattr(RunStack, "_up", up)
    engine = Engine(Path("/nowhere/pulumi"), "3.250.0", "path")
    stack = RunStack(Spec(), workspace, engine, [OFFER], permit=permit)
    with pytest.raises(DayflyError, match=r"(?s)full.*policy regions denies it"):
        stack.__enter__()
    assert asked == ["loopback", "forbidden"]


def test_where_nobody_may_be_let_in_an_unknown_address_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Instead of a machine that anybody may knock at; the processes that make it are told so."""
    monkeypatch.setattr(caller, "own", lambda _: None)
    assert caller.allowed(None, "http://127.0.0.1").cidr == "0.0.0.0/0"
    monkeypatch.setenv(PRIVATE_VARIABLE, "1")
    with pytest.raises(ConfigurationError, match="set allow_cidr"):
        caller.allowed(None, "http://127.0.0.1")
    assert caller.allowed("203.0.113.7/32", "http://127.0.0.1").cidr == "203.0.113.7/32"
    monkeypatch.delenv(PRIVATE_VARIABLE)
    engine = Engine(Path("/nowhere/pulumi"), "3.250.0", "path")
    assert PRIVATE_VARIABLE not in Context.open().workspace.environment(engine, "")
    _layers(tmp_path, monkeypatch, "[policy]\npublic_ingress = false\n", "")
    assert Context.open().workspace.environment(engine, "")[PRIVATE_VARIABLE] == "1"
