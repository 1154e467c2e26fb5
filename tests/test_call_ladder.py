"""The Offers of all providers named: one that has none is left out of the ladder, and said so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly import cluster
from dayfly.errors import BudgetExceeded, ConfigurationError, NoCapacity, SpecError
from dayfly.infra.plan import Plan
from dayfly.infra.spec import Spec
from dayfly.runtime.ladder import ladder
from dayfly.runtime.machine_plan import plan_machine
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """Nothing is launched on it."""
    with Emulator(
        Options(machines=False, time_scale=50, request_interval_s=0, default_capacity=0)
    ) as emulator:
        yield emulator


@pytest.fixture
def there(cloud: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment tells of it."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("there")
def test_a_provider_without_capacity_is_left_out_of_a_ladder() -> None:
    """The next one is there for that."""
    said = list[str]()
    offers = ladder(Spec(provider=["lambda", "local"], cores=1), said.append)
    assert [offer.provider for offer in offers] == ["local"]
    assert "no capacity" in said[0]


@pytest.mark.usefixtures("there")
def test_when_none_is_left_every_reason_is_told() -> None:
    """As a want of capacity where that is one of them."""
    with pytest.raises(NoCapacity, match=r"no capacity.*; .*has no instance_type"):
        ladder(Spec(provider=["lambda", "local"], instance_type="gpu_1x_a100"))
    with pytest.raises(NoCapacity):
        ladder(Spec(provider="lambda"))
    with pytest.raises(SpecError, match=r"cores=9999.*; cores=9999"):
        ladder(Spec(provider=["lambda", "local"], cores=9999))


def test_no_offer_costs_more_than_max_price_an_hour() -> None:
    """All machines of the run together; the refusal names the cheapest."""
    spec = Spec(provider="lambda", gpu="H100", max_price=4)
    assert [o.instance_type for o in ladder(spec, to_run=False)] == ["gpu_1x_h100_pcie"]
    with pytest.raises(
        BudgetExceeded, match=r"max_price=\$4/h: .* 2 x gpu_1x_h100_pcie of lambda at \$3.29/h"
    ):
        ladder(dataclasses.replace(spec, nodes=2), to_run=False)


def test_a_plan_needs_no_key_and_a_run_does() -> None:
    """The catalog of the package has prices."""
    spec = Spec(provider="lambda", instance_type="gpu_1x_a100")
    (offer,) = ladder(spec, to_run=False)
    assert offer.usd_per_hour == 1.99
    with pytest.raises(ConfigurationError, match="LAMBDA_API_KEY"):
        ladder(spec)


def test_a_plan_keeps_who_is_left_out_and_why(tmp_path: Path) -> None:
    """A machine's and a function's, told at once and written down; nobody is where all have a rung."""
    said: list[str] = []
    spec = Spec(provider=["local", "lambda"], instance_type="gpu_1x_a100")
    plan = plan_machine(spec, said.append, fast=True)
    assert {offer["provider"] for offer in plan.offers} == {"lambda"}
    (reason,) = plan.left_out
    assert "instance_type" in reason
    assert f"not in the ladder: {reason}" in said
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").left_out == plan.left_out
    assert plan_machine(dataclasses.replace(spec, provider="lambda"), fast=True).left_out == ()

    @cluster(provider=["local", "lambda"], instance_type="gpu_1x_a100", environment=[])
    def work() -> int:
        return 1

    assert work.plan_fast().left_out == plan.left_out


def test_who_is_left_out_is_told_also_where_the_others_cost_too_much() -> None:
    """The refusal names only what could be had."""
    said: list[str] = []
    spec = Spec(provider=["local", "lambda"], instance_type="gpu_1x_a100", max_price=0.5)
    with pytest.raises(BudgetExceeded, match="gpu_1x_a100 of lambda"):
        plan_machine(spec, said.append, fast=True)
    assert any("not in the ladder" in each for each in said)
