"""A plan is saved, read and compared: what has changed since is named, and nothing is created then."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dayfly import cluster
from dayfly.errors import ConfigurationError, PlanChanged, SpecError
from dayfly.infra.plan import Plan, Resource
from dayfly.infra.spec import Spec
from dayfly.runtime import preview
from dayfly.runtime.context import Context
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


def test_a_saved_plan_is_what_it_was(tmp_path: Path) -> None:
    """As JSON that people can read in a pull request, without its function."""
    file = tmp_path / "train.plan.json"
    dataclasses.replace(_PLAN, runner=lambda _: 1).save(file)
    assert json.loads(file.read_text())["worst_case_usd"] == 86.4
    found = Plan.load(file)
    assert found.changes(_PLAN) == _PLAN.changes(found) == []
    assert (found.resources, found.offers, found.max_runtime_s) == (
        _PLAN.resources,
        _PLAN.offers,
        86400.0,
    )
    with pytest.raises(ConfigurationError, match="as_planned"):
        found.run()


def _offer(**changed: Any) -> dict[str, Any]:
    return {"offers": ({**OFFER.as_dict(), **changed},)}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"usd_per_hour": 3.7}, "usd_per_hour: 3.6 was planned, 3.7 it is now"),
        ({"worst_case_usd": 90.0}, "worst_case_usd: 86.4 was planned"),
        ({"code_digest": "beef" * 16}, "code has changed (c0dec0dec0de, now beefbeefbeef)"),
        ({"environment_digest": ""}, "environment has changed (e0e0e0e0e0e0, now none)"),
        ({"environment": "requirements.txt"}, "environment: 'live (3 packages)' was planned"),
        (_offer(instance_type="bigger"), "instance_type: 'this-computer' was planned, 'bigger'"),
        (_offer(spot=True), "spot: False was planned"),
        ({"spec": Spec(cores=2).as_dict()}, "secrets: ['TOKEN'] was planned, [] it is now"),
        (
            {"resources": (_PLAN.resources[0], Resource("t:Disk", "disk"))},
            "resources: disk (t:Disk) would be new and instance (t:Instance) would not be there",
        ),
        ({"resources": _PLAN.resources[::-1]}, "resources: in another order"),
    ],
)
def test_every_difference_is_named(changed: dict[str, Any], words: str) -> None:
    """What was, and what is."""
    (told,) = _PLAN.changes(dataclasses.replace(_PLAN, **changed))
    assert words in told


@pytest.mark.parametrize(
    "changed",
    [
        {"usd_per_hour": 3.5, "worst_case_usd": 84.0},
        _offer(region="elsewhere", as_of="2026-11-30", source="another"),
        {"spec": Spec(cores=2, secrets=["TOKEN"], job_name="night", outputs="./x").as_dict()},
        {"resources_from": "recorder"},
    ],
)
def test_what_harms_nobody_is_no_difference(changed: dict[str, Any]) -> None:
    """A lower price, another region where any will do, a label."""
    assert _PLAN.changes(dataclasses.replace(_PLAN, **changed)) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "dayfly-plan-1"}', '{"format": 2}'])
def test_a_file_without_a_plan_is_named(tmp_path: Path, text: str) -> None:
    """With how one is made."""
    file = tmp_path / "plan.json"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Plan.load(file)
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
    for call in (plan.run, lambda: planned(1), lambda: planned.submit(1)):
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


@pytest.mark.process
@pytest.mark.usefixtures("previewed")
def test_the_command_line_saves_a_plan_and_keeps_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed function is refused by its code."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "job.py"
    script.write_text("print('a')\n")
    done = dayfly("plan", "--environment", "live", "--save", "p.json", "job.py")
    assert (done.returncode, "p.json" in done.stderr) == (0, True)
    script.write_text("print('b')\n")
    refused = dayfly("run", "--environment", "live", "--plan", "p.json", "job.py")
    assert refused.returncode == 2
    assert "code has changed" in refused.stderr
    assert dayfly("run", "--plan", "nowhere.json", "job.py").returncode == 2
    script.write_text("from dayfly import cluster\n@cluster\ndef f(): ...\n")
    refused = dayfly("run", "--plan", "p.json", "job.py")
    assert (refused.returncode, "as_planned" in refused.stderr) == (2, True)
