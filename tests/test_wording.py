"""Plans, receipts and money read the same wherever they are shown."""

from __future__ import annotations

import dataclasses
from datetime import date

import pytest

from dayfly.infra.listing import Listing, Resource
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.infra.planning import make_plan
from dayfly.infra.spec import Spec
from dayfly.runtime import wording
from dayfly.stacks.receipt import Receipt

OFFER = Offer(
    "lambda",
    "us-east-1",
    "gpu_1x_a100",
    30,
    200 * 10**9,
    1.29,
    1,
    "A100",
    True,
    "2026-01-02",
    "catalog",
)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "$0.00"), (1234.5, "$1,234.50"), (0.0043, "$0.0043"), (0.00000012, "$1.2e-07")],
)
def test_a_fraction_of_a_cent_is_not_shown_as_nothing(amount: float, text: str) -> None:
    """People add these up."""
    assert wording.dollars(amount) == text


def test_an_old_price_is_called_old() -> None:
    """A price carries its source and its date; after a month people are told its age."""
    offer = OFFER.as_dict()
    assert wording.price_source(offer, date(2026, 1, 20)) == "catalog, 2026-01-02"
    assert wording.price_source(offer, date(2026, 3, 2)) == "catalog, 2026-01-02: 59 days old"
    assert wording.price_source({**offer, "as_of": ""}) == "catalog, date unknown"
    assert wording.price_source({**offer, "as_of": "2026"}) == "catalog, 2026: may be old"


def test_a_plan_names_every_resource_and_rung_and_the_money() -> None:
    """The resources in order, the ladder in order, rate and worst case."""
    resources = (Resource("t:Instance", "instance"), Resource("t:Ready", "ready"))
    second = {**OFFER.as_dict(), "region": "us-west-2", "spot": False}
    plan = Plan(
        "m:f",
        resources,
        "engine",
        (OFFER.as_dict(), second),
        1.29,
        30.96,
        86400.0,
        1.29,
        "live",
        "dies",
    )
    rows = wording.plan_rows(plan)
    text = "\n".join(f"{label}: {words}" for label, words in rows)
    assert text.index("instance  (t:Instance)") < text.index("ready  (t:Ready)")
    assert (
        "machine: lambda gpu_1x_a100 in us-east-1  (30 cores, 200.0 GB, 1 x A100, spot, $1.29/h)"
        in text
    )
    assert "or: lambda gpu_1x_a100 in us-west-2" in text
    assert "worst case: $30.96" in text
    assert "if this computer dies: dies" in text


def test_a_receipt_is_one_sentence() -> None:
    """What is gone, who says so, when, and the bill."""
    receipt = Receipt("r", "local", 2, 2, 0, 0.0, 41.2, 0.0, 0.0, "pulumi")
    line = wording.receipt_line(receipt)
    assert line.startswith("destroyed 2 of 2, local confirms 0 left at ")
    assert line.endswith(", 0.69 min billed, $0.00")


def test_a_machine_s_gpus_are_told_with_their_memory() -> None:
    """Where the price list says it."""
    offer = {**OFFER.as_dict(), "gpu_memory_gb": 80.0}
    assert "1 x A100 80 GB, spot" in wording.machine(offer)


def test_a_plan_says_what_keeping_its_machine_costs() -> None:
    """Before it is paid for."""
    plan = Plan("m:f", (), "engine", (OFFER.as_dict(),), 1.29, 30.96, 86400.0, 1.29, "live", "dies")
    assert "keep" not in dict(wording.plan_rows(plan))
    kept = dataclasses.replace(plan, keep="10 min after each call", keep_usd=0.215)
    said = dict(wording.plan_rows(kept))["keep"]
    assert said == "10 min after each call: $0.21 at most, within the worst case"


def test_a_plan_says_when_a_session_ends_that_nobody_calls() -> None:
    """Else it lives until its block is left."""
    plan = Plan("m:f", (), "engine", (OFFER.as_dict(),), 1.29, 30.96, 86400.0, 1.29, "live", "dies")
    assert "idle" not in dict(wording.plan_rows(plan))
    said = dict(wording.plan_rows(dataclasses.replace(plan, idle_s=1800.0)))["idle"]
    assert said == "the run ends after 30 min without a call"


def test_a_plan_tells_prices_by_resource_worst_cases_by_rung_and_who_has_listed_them() -> None:
    """A price that nobody has told is no 0; what a policy has denied, and what passed, is told, too."""
    first = Listing(
        (
            Resource("t:Machine", "machine", 1.5),
            Resource("t:Key", "key", 0.0),
            Resource("t:D", "d"),
        ),
        "recorder",
        "no plugin",
    )
    offers = [Offer("lambda", f"us-{n}", f"type-{n}", 2, 10**9, 1.5 * n) for n in (1, 2, 3)]
    listings = [first, Listing((Resource("t:Machine", "other"),), "engine"), Listing(why="no SDK")]
    plan = dataclasses.replace(
        make_plan(Spec(provider="lambda", max_runtime="10h"), offers, listings),
        denied=("elsewhere: too far",),
        policies=("near (me)",),
    )
    text = "\n".join(f"{label}: {words}" for label, words in wording.plan_rows(plan))
    for words in (
        "machine  (t:Machine)  $1.50/h",
        "key  (t:Key)  $0.00/h",
        "d  (t:D)  price not known",
        "by the recorder, without the engine: no plugin",
        "or: lambda type-2 in us-2  (2 cores, 1.0 GB, $3.00/h); $30.00 at worst",
        "other (t:Machine)  [by the engine's preview]",
        "resources are not listed: no SDK",
        "denied: elsewhere: too far",
        "policy: near (me): passed",
    ):
        assert words in text, (words, text)
    unlisted = make_plan(
        Spec(provider="lambda", max_runtime="10h"), offers, [Listing(why="nobody is asked")] * 3
    )
    rows = [text for _, text in wording.plan_rows(unlisted)]
    assert sum("nobody is asked" in each for each in rows) == 1
