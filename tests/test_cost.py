"""What a run costs: the rate, the worst case and the bill."""

from __future__ import annotations

import dataclasses

import pytest

from dayfly.errors import BudgetExceeded, SpecError
from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec

OFFER = Offer("local", "r", "t", 8, 1, usd_per_hour=2.0)


def test_the_worst_case_is_the_rate_until_the_deadline() -> None:
    """All nodes, for all of max_runtime."""
    assert cost.worst_case_usd(Spec(max_runtime="3h"), OFFER) == pytest.approx(6.0)
    assert cost.worst_case_usd(Spec(max_runtime="3h", nodes=2), OFFER) == pytest.approx(12.0)


def test_max_cost_becomes_a_deadline_from_the_actual_rate() -> None:
    """$1 pays for half an hour at $2/h, and no run may then cost more."""
    spec = Spec(max_runtime="3h", max_cost=1.0)
    assert cost.allowed_runtime_s(spec, OFFER) == pytest.approx(1800)
    assert cost.worst_case_usd(spec, OFFER) == pytest.approx(1.0)


def test_a_budget_below_a_minute_is_refused() -> None:
    """With the value, before anything exists."""
    with pytest.raises(BudgetExceeded, match=r"max_cost=\$0.01"):
        cost.allowed_runtime_s(Spec(max_cost=0.01), OFFER)


def test_a_grace_of_more_than_half_of_what_is_paid_for_is_refused() -> None:
    """The usual one never is."""
    spec = Spec(max_runtime="3h", max_cost=1.0, grace="15m")
    cost.check_grace(spec, OFFER)
    cost.check_grace(Spec(max_runtime="5s"), OFFER)
    with pytest.raises(SpecError, match=r"grace=16 min .* half of the 30 min .* max_cost=\$1 pays"):
        cost.check_grace(dataclasses.replace(spec, grace="16m"), OFFER)


def test_a_free_machine_is_not_bounded_by_money() -> None:
    """There is no rate to divide by."""
    free = Offer("local", "r", "t", 8, 1, usd_per_hour=0.0)
    assert cost.allowed_runtime_s(Spec(max_cost=1, max_runtime="1h"), free) == 3600


def test_a_bill_is_rounded_up_to_the_increment() -> None:
    """61 s billed by the minute are two minutes."""
    minutes = providers.load("local").limits._replace(billing_increment_s=60)
    assert cost.billed_usd(60.0, 61, minutes) == pytest.approx(2.0)
    assert cost.billed_usd(60.0, 60, minutes) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["aws", "gcp"])
@pytest.mark.parametrize(
    ("lived_s", "billed_s"), [(0.0, 60), (7.2, 60), (60.0, 60), (60.1, 61), (3599.5, 3600)]
)
def test_a_machine_billed_by_the_second_is_billed_for_a_minute_at_least(
    name: str, lived_s: float, billed_s: float
) -> None:
    """So do EC2 and Compute Engine, and a bill is never less than theirs."""
    limits = providers.load(name).limits
    assert cost.billed_s(lived_s, limits) == billed_s
    assert cost.billed_usd(36.0, lived_s, limits) == pytest.approx(billed_s / 100)


def test_the_worst_case_of_a_short_run_is_what_is_billed_at_least() -> None:
    """Ten seconds on EC2 are paid as a minute; where there is no such minimum they are ten seconds."""
    spec = Spec(max_runtime="10s")
    there = dataclasses.replace(OFFER, provider="aws", usd_per_hour=36.0)
    assert cost.worst_case_usd(spec, there) == pytest.approx(0.6)
    here = dataclasses.replace(there, provider="local")
    assert cost.worst_case_usd(spec, here) == pytest.approx(0.1)
