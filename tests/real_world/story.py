"""What a test of a real cloud does and shows: the plan with what it can cost at most, then the call, its value and the receipt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.runtime import wording
from dayfly.runtime.cluster import RemoteFunction
from dayfly.runtime.job import Job
from dayfly.stacks import journal
from dayfly.stacks.receipt import Receipt


@dataclass(frozen=True)
class Story:
    """One call, from its plan to its end.

    Attributes:
        plan: as it was shown before a cent was spent.
        job: the call.
        value: what the function gave.
        receipt: what was destroyed and billed.
        offer: the machine that was taken.
    """

    plan: Plan
    job: Job[Any]
    value: Any
    receipt: Receipt
    offer: Offer


def show_plan(plan: Plan) -> None:
    """Prints it."""
    for label, text in wording.plan_rows(plan):
        print(f"  {label:<24}{text}")


def told(
    function: RemoteFunction[[], Any], capsys: pytest.CaptureFixture[str], most_usd: float
) -> Story:
    """Calls a function, and prints what comes of it as it comes; nothing is called that might cost more than is said."""
    with capsys.disabled():
        print()
        plan = function.plan()
        show_plan(plan)
        assert plan.worst_case_usd <= most_usd
        job = function.submit()
        value, receipt = job.result(), job.receipt()
        print(f"  {value}\n  {wording.receipt_line(receipt)}", flush=True)
    offer = Offer(**journal.read(job.directory).intent["offer"])
    return Story(plan, job, value, receipt, offer)
