"""A plan is saved, read and compared: what has changed since is named, and nothing is created then."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import ConfigurationError, PlanChanged, SpecError
from dayfly.infra import providers
from dayfly.infra.listing import Listing, Resource
from dayfly.infra.plan import Plan, Rung
from dayfly.infra.spec import Spec
from dayfly.runtime import preview
from dayfly.runtime.call import Call
from dayfly.runtime.context import Context
from dayfly.runtime.verb import act
from dayfly.stacks import journal
from tests.runs import OFFER
from tests.test_cli import dayfly

_PLAN = Plan(
    "m:f",
    (Resource("t:Key", "key"), Resource("t:Instance", "instance")),
    "engine",
    (OFFER.as_dict(),),
    3.6,
    86.4,
    86400.0,
    3.6,
    "live (3 packages)",
    "it dies",
    spec=Spec(cores=2, secrets=["TOKEN"]).as_dict(),
    code_digest="c0de" * 16,
    environment_digest="e0" * 32,
)


async def _doubled_aio(plan: Plan, /) -> float:
    return 2 * plan.usd_per_hour


@act(_doubled_aio)
def _doubled(plan: Plan, /) -> float:
    return plan.usd_per_hour * 2


def test_a_saved_plan_is_what_it_was(tmp_path: Path) -> None:
    """As JSON that people can read in a pull request, without its function."""
    file = tmp_path / "train.plan.json"
    runnable = dataclasses.replace(_PLAN, runner=_doubled)
    runnable.save(file)
    assert pickle.loads(pickle.dumps(runnable)) == _PLAN
    assert json.loads(file.read_text())["worst_case_usd"] == 86.4
    found = Plan.load(file)
    assert found.changes(_PLAN) == _PLAN.changes(found) == []
    assert (found.resources, found.offers, found.max_runtime_s) == (
        _PLAN.resources,
        _PLAN.offers,
        86400.0,
    )
    assert runnable.run() == asyncio.run(runnable.run.aio()) == 7.2
    calls: list[Callable[[], Any]] = [found.run, lambda: asyncio.run(found.run.aio())]
    for call in calls:
        with pytest.raises(ConfigurationError, match="as_planned"):
            call()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"code_digest": "beef" * 16}, "code has changed (c0dec0dec0de, now beefbeefbeef)"),
        ({"environment_digest": ""}, "what is installed has changed (e0e0e0e0e0e0, now none)"),
        ({"environment": "requirements.txt"}, "environment: 'live (3 packages)' was planned"),
        ({"spec": Spec(cores=2).as_dict()}, "secrets: ['TOKEN'] was planned, [] it is now"),
        (
            {"resources": (_PLAN.resources[0], Resource("t:Disk", "disk"))},
            "resources: disk (t:Disk) would be new and instance (t:Instance) would not be there",
        ),
    ],
)
def test_every_difference_is_named(changed: dict[str, Any], words: str) -> None:
    """What was, and what is."""
    (told,) = _PLAN.changes(dataclasses.replace(_PLAN, **changed))
    assert words in told


@pytest.mark.parametrize(
    "changed",
    [
        {"usd_per_hour": 3.5, "worst_case_usd": 84.0, "max_runtime_s": 90000.0},
        {"spec": Spec(cores=2, secrets=["TOKEN"], job_name="night", outputs="./x").as_dict()},
        {"resources_from": "recorder", "resources": _PLAN.resources[::-1]},
    ],
)
def test_what_harms_nobody_is_no_difference(changed: dict[str, Any]) -> None:
    """What follows from the price, which is looked at by itself; a label; where results go; the order in which an engine that
    does several things at once came to them."""
    assert _PLAN.changes(dataclasses.replace(_PLAN, **changed)) == []


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({}, True),
        ({"usd_per_hour": 3.5, "region": "elsewhere", "as_of": "2026-11-30"}, True),
        ({"usd_per_hour": 3.7}, False),
        ({"instance_type": "bigger"}, False),
        ({"provider": "lambda"}, False),
        ({"spot": True}, False),
    ],
)
def test_only_machines_of_its_ladder_are_allowed_at_no_higher_price(
    changed: dict[str, Any], allowed: bool
) -> None:
    """In whatever region: one that was named is compared with the rest of the Spec."""
    assert _PLAN.allows(dataclasses.replace(OFFER, **changed)) is allowed


def test_why_no_machine_is_allowed_is_told_for_each_rung() -> None:
    """Its price, or that there is none."""
    plan = dataclasses.replace(
        _PLAN, offers=(OFFER.as_dict(), {**OFFER.as_dict(), "instance_type": "bigger"})
    )
    assert plan.dearer([dataclasses.replace(OFFER, usd_per_hour=4.0)]) == [
        "local this-computer: $3.6/h was planned, $4/h it is now",
        "local bigger is not to be had now",
    ]


def test_a_plan_whose_resources_were_not_listed_says_so() -> None:
    """They would not be new, as those of a changed program are: nobody has looked."""
    rung = Rung(3.6, 86.4, 86400.0, "", Listing(why="a fast plan asks nobody"))
    fast = dataclasses.replace(_PLAN, resources=(), resources_from="", rungs=(rung,))
    assert fast.changes(_PLAN) == [
        "resources: they were not listed (a fast plan asks nobody): plan again without --fast"
    ]


def test_a_plan_of_a_machine_alone_is_compared_by_that() -> None:
    """It knows of no function."""
    machine = dataclasses.replace(_PLAN, function="", code_digest="", environment="decided then")
    assert machine.changes(_PLAN) == []
    assert machine.changes(dataclasses.replace(_PLAN, resources=())) != []


def _text(**changed: Any) -> str:
    return json.dumps({"format": "dayfly-plan-1", **_PLAN.as_dict(), **changed})


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"format": "dayfly-plan-1"}', _text(format=2)),
        *(_text(offers=[]), _text(offers=[{"x": 1}]), _text(spec=None), _text(runner="x")),
    ],
)
def test_a_file_without_a_plan_is_named(tmp_path: Path, text: str) -> None:
    """With how one is made."""
    file = tmp_path / "plan.json"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Plan.load(file)
    file.write_text(_text())
    assert Plan.load(file).changes(_PLAN) == []
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"plan\.json holds no plan.*dayfly plan --save"):
        Plan.load(file)


@pytest.fixture
def previewed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the engine would say, which these tests need not ask."""
    found = [{"type": "t:Instance", "name": "instance"}]
    monkeypatch.setattr(preview, "resources", lambda *_: list(found))
    return found


def test_a_call_that_is_not_as_planned_creates_nothing(
    previewed: list[dict[str, str]], tmp_path: Path
) -> None:
    """Neither by its function, nor by its plan, nor by a file."""

    @cluster(environment=[])
    def triple(x: int) -> int:
        return 3 * x

    plan = triple.plan(1)
    file = tmp_path / "triple.json"
    plan.save(file)
    previewed.append({"type": "t:Disk", "name": "disk"})
    planned = triple.as_planned(file)
    for call in (
        plan.run,
        lambda: asyncio.run(plan.run.aio()),
        lambda: planned(1),
        lambda: planned.submit(1),
    ):
        with pytest.raises(PlanChanged, match=r"(?s)triple.*disk \(t:Disk\) would be new"):
            call()
    previewed.pop()
    with pytest.raises(PlanChanged, match="max_runtime"):
        triple.with_options(max_runtime="1h").as_planned(plan)(1)
    assert journal.histories(Context.open().workspace.runs, closed=True) == []


def test_a_plan_is_one_of_a_single_call(previewed: list[dict[str, str]]) -> None:
    """Other verbs, and other options, would not be what was planned."""

    @cluster(environment=[])
    def triple(x: int) -> int:
        return 3 * x

    planned = triple.as_planned(triple.plan(1))
    with pytest.raises(SpecError, match="single call"):
        planned.map([1])
    with pytest.raises(SpecError, match="give them before"):
        planned.with_options(cores=1)
    assert planned.with_options() is planned


@pytest.mark.usefixtures("previewed")
def test_a_rung_below_is_taken_where_the_plan_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one may be sold out by now; what is dearer, or was never planned, is no rung."""
    here = providers.load("local")
    big, huge = (dataclasses.replace(OFFER, instance_type=name) for name in ("big", "huge"))

    @cluster(environment=[])
    def triple(x: int) -> int:
        return 3 * x

    monkeypatch.setattr(here, "offers", lambda _: [big, OFFER])
    plan = triple.plan(1)
    dear = dataclasses.replace(OFFER, usd_per_hour=9.0)
    monkeypatch.setattr(here, "offers", lambda _: [huge, OFFER, dear])
    call = Call.prepare(triple.__dayfly_function__, [1], {}, triple.spec).as_planned(plan)
    assert (call.offers, call.planned) == ((OFFER,), True)
    monkeypatch.setattr(here, "offers", lambda _: [huge, dear])
    with pytest.raises(PlanChanged, match=r"(?s)big is not to be had.*\$9/h it is now"):
        triple.as_planned(plan)(1)


@pytest.mark.process
@pytest.mark.usefixtures("previewed")
def test_the_command_line_saves_a_plan_and_keeps_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed function is refused by its code."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "job.py"
    done = dayfly("plan", "--fast", "--save", "fast.json")
    assert (done.returncode, "plan again without --fast" in done.stderr) == (0, True)
    script.write_text("print('a')\n")
    done = dayfly("plan", "--environment", "live", "--save", "p.json", "job.py")
    assert (done.returncode, "p.json" in done.stderr) == (0, True)
    script.write_text("print('b')\n")
    refused = dayfly("run", "--environment", "live", "--plan", "p.json", "job.py")
    assert refused.returncode == 2
    assert "code has changed" in refused.stderr
    assert dayfly("run", "--plan", "nowhere.json", "job.py").returncode == 2
    script.write_text("from dayfly import cluster\n@cluster\ndef f(): ...\n")
    refused = dayfly("plan", "--save", "q.json", "job.py")
    assert (refused.returncode, "each of its calls has a plan" in refused.stderr) == (2, True)
    assert not Path("q.json").exists()
    refused = dayfly("run", "--plan", "p.json", "job.py")
    assert (refused.returncode, "as_planned" in refused.stderr) == (2, True)
