"""What a plan says of real clouds, on their emulators: one ladder over all of them, and the plain CLI previews its first rung."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators import worlds
from tests.engine.client import dayfly, plain_project

pytestmark = pytest.mark.engine

_DECLARED = re.compile(r"^ \+ +(\S+) (\S+) create", re.MULTILINE)
_SAID_TWICE = re.compile(r"/(\w+):((?i:\1))$")
# Of those that are known before anything is made.
_OUTPUT = re.compile(r'^ +(\w+) *: ("[^"]*"|[\d.]+)$', re.MULTILINE)
_MONEY = ("cost_per_hour_usd", "worst_case_usd")
_PLACE = ("provider", "region", "instance_type")

_A100 = ("--gpu", "A100:1", "--provider", "aws,azure,gcp,lambda")
_NOT_AWS = re.compile(
    r"gpu='A100:1': AWS has them 8 at a time only, p4d\.24xlarge \(.*8 x A100.*\);"
    r" if that is what you want, write gpu='A100-40GB:8'"
)


@pytest.fixture(autouse=True)
def clouds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every cloud, as the environment tells of them."""
    with worlds.empty() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


def _plan(*options: str) -> dict[str, Any]:
    done = dayfly("plan", *options, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _listed(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Its resources as the plain CLI shows them to people: "aws:ec2/instance:Instance" as "aws:ec2:Instance"."""
    told = [(_SAID_TWICE.sub(r":\2", each["type"]), each["name"]) for each in plan["resources"]]
    return sorted(told)


def _previewed(folder: Path, **asked: str) -> tuple[str, list[tuple[str, str]], dict[str, Any]]:
    """What `pulumi preview` says of a stack that asks for that: all of it, its resources and its outputs."""
    pulumi = plain_project(folder / "project")
    assert pulumi("stack", "init", "dev").returncode == 0
    values = [word for name, value in asked.items() for word in ("--plaintext", f"{name}={value}")]
    assert pulumi("config", "set-all", *values).returncode == 0
    done = pulumi("preview")
    assert done.returncode == 0, done.stdout + done.stderr
    # Each is told twice where there is something to say of it.
    declared = {pair for pair in _DECLARED.findall(done.stdout) if pair[0] != "pulumi:pulumi:Stack"}
    outputs = {name: json.loads(value) for name, value in _OUTPUT.findall(done.stdout)}
    return done.stdout, sorted(declared), outputs


@pytest.mark.parametrize(
    ("provider", "gpu"),
    [
        pytest.param("aws", "A10G", marks=pytest.mark.clouds),
        pytest.param("azure", "T4", marks=pytest.mark.clouds),
        pytest.param("gcp", "T4", marks=pytest.mark.clouds),
        ("lambda", "A10"),
    ],
)
def test_the_plain_cli_previews_what_a_plan_shows(provider: str, gpu: str, tmp_path: Path) -> None:
    """The same resources, the same machine and the same dollars; both ask the real engine."""
    plan = _plan("--provider", provider, "--gpu", gpu)
    assert plan["resources_from"] == "engine"
    _, declared, outputs = _previewed(tmp_path, **{"dayfly:provider": provider, "dayfly:gpu": gpu})
    assert declared == _listed(plan)
    assert {name: outputs[name] for name in _PLACE} == {
        name: plan["offers"][0][name] for name in _PLACE
    }
    assert outputs["cost_per_hour_usd"] == pytest.approx(plan["usd_per_hour"])
    assert outputs["worst_case_usd"] == pytest.approx(plan["worst_case_usd"])
    prices = [each["usd_per_hour"] for each in plan["resources"]]
    assert sum(price or 0 for price in prices) == pytest.approx(outputs["cost_per_hour_usd"])
    assert outputs["cost_per_hour_usd"] > 0


@pytest.mark.clouds
def test_the_plain_cli_takes_the_first_rung_of_a_plan_s_ladder(tmp_path: Path) -> None:
    """A provider that has none is left out, and it says so, as the plan does; the next one's machine is previewed."""
    ladder = {"provider": "aws,azure", "gpu": "A100:1"}
    plan = _plan("--provider", ladder["provider"], "--gpu", ladder["gpu"])
    (left_out,) = plan["left_out"]
    assert _NOT_AWS.fullmatch(left_out)
    said, declared, outputs = _previewed(
        tmp_path, **{f"dayfly:{name}": value for name, value in ladder.items()}
    )
    assert f"not in the ladder: {left_out}" in said
    assert plan["offers"][0]["provider"] == "azure"
    assert {name: outputs[name] for name in _PLACE} == {
        name: plan["offers"][0][name] for name in _PLACE
    }
    assert declared == _listed(plan)
    assert [outputs[name] for name in _MONEY] == pytest.approx(
        [plan["usd_per_hour"], plan["worst_case_usd"]]
    )


@pytest.mark.clouds
def test_a_ladder_over_all_clouds_reads_as_one_table() -> None:
    """Azure, Google Cloud and Lambda have rungs, each with its worst case; AWS has none, and what to write instead is said."""
    done = dayfly("plan", *_A100)
    assert done.returncode == 0, done.stderr
    assert _NOT_AWS.search(done.stderr), done.stderr
    assert "dayfly: not in the ladder: " in done.stderr
    lines = done.stdout.splitlines()
    rungs = [line.split() for line in lines if re.match(r"  (machine|or) ", line)]
    assert [words[0] for words in rungs] == ["machine"] + ["or"] * (len(rungs) - 1)
    assert list(dict.fromkeys(words[1] for words in rungs)) == ["azure", "gcp", "lambda"]
    # The resources of the first rung, one a line, each with what it costs; the machine is not free.
    first = lines.index(next(line for line in lines if line.startswith("  machine ")))
    resources = [re.fullmatch(r"  .*?(\w+)  \((.+)\)  \$(\S+)/h", line) for line in lines[1:first]]
    told = {found[2]: float(found[3]) for found in resources if found}
    assert len(told) == len(resources) == first - 1
    assert told["azure-native:compute:VirtualMachine"] > 0
    assert sum(price > 0 for price in told.values()) == 1
    # It is the engine that lists them, unless it says otherwise.
    assert not any("recorder" in line for line in lines[:first])
    # Of each further provider the first rung's, and who listed them.
    below = [
        (line.split()[1], lines[number + 1])
        for number, line in enumerate(lines)
        if number + 1 < len(lines) and "[by the recorder, without the engine]" in lines[number + 1]
    ]
    assert [provider for provider, _ in below] == ["gcp", "lambda"]
    assert "gcp:compute/instance:Instance" in below[0][1]
    assert "dayfly:LambdaInstance" in below[1][1]
    # The worst case of the first rung has a line of its own.
    at_worst = [bool(re.search(r"; \$\S+ at worst$", " ".join(words))) for words in rungs]
    assert at_worst == [False] + [True] * (len(rungs) - 1)
    assert re.search(r"^  worst case +\$\S+ if it lives until max_runtime$", done.stdout, re.M)


@pytest.mark.clouds
def test_a_ladder_over_all_clouds_has_fields_for_programs() -> None:
    """The same facts: resources and who listed them, rate and worst case of each rung, and who is left out."""
    plan = _plan(*_A100)
    offers, rungs = plan["offers"], plan["rungs"]
    assert list(dict.fromkeys(each["provider"] for each in offers)) == ["azure", "gcp", "lambda"]
    assert all((each["gpus"], each["gpu_model"]) == (1, "A100") for each in offers)
    (left_out,) = plan["left_out"]
    assert _NOT_AWS.fullmatch(left_out)
    assert len(rungs) == len(offers)
    for offer, rung in zip(offers, rungs, strict=True):
        assert rung["usd_per_hour"] == offer["usd_per_hour"] > 0
        assert rung["worst_case_usd"] == pytest.approx(offer["usd_per_hour"] * 24)
    assert (plan["usd_per_hour"], plan["worst_case_usd"]) == (
        rungs[0]["usd_per_hour"],
        rungs[0]["worst_case_usd"],
    )
    assert plan["resources_from"] == rungs[0]["listing"]["source"] == "engine"
    assert plan["resources"] == rungs[0]["listing"]["resources"]
    firsts = {each["provider"]: number for number, each in reversed([*enumerate(offers)])}
    sources = [rung["listing"]["source"] for rung in rungs]
    assert {n: s for n, s in enumerate(sources) if s} == {
        firsts["azure"]: "engine",
        firsts["gcp"]: "recorder",
        firsts["lambda"]: "recorder",
    }
    for number in firsts.values():
        prices = [each["usd_per_hour"] for each in rungs[number]["listing"]["resources"]]
        assert [price for price in prices if price] == [offers[number]["usd_per_hour"]]
