"""One reckoning for receipts, `dayfly cost` and `Job.cost`: what was asked for and not refused, never under the meter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dayfly.infra import creations, providers
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.runtime.spending import Spending
from dayfly.stacks import intent, journal
from dayfly.stacks.bill import Bill
from dayfly.stacks.workspace import Workspace
from tests.runs import OFFER

_OFFER = dataclasses.replace(OFFER, provider="lambda")


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """One run at a provider that keeps a record, whose engine has begun."""
    made = intent.write(workspace, new_id(), Spec(), _OFFER, client=journal.myself())
    journal.append(made.directory, "up_started")
    return made


def _usd(run: Run, now: float) -> tuple[Any, bool]:
    """Dollars and doubt, by every way that tells them of an open run."""
    history = journal.read(run.directory)
    bill = Bill.of(history, providers.load("lambda"), now)
    expenses = Spending.of([history], now).expenses
    assert [(e.usd, e.at_most) for e in expenses] == [(bill.usd, bill.at_most)] * bool(bill.usd)
    return bill.usd, bill.at_most


def test_nothing_is_billed_before_a_launch_is_sent_nor_for_a_refused_one(run: Run) -> None:
    """However long the provision takes, or whatever else of it is still to be cleared."""
    key = creations.begin(run.directory, "key")
    creations.answered(run.directory, key, "k-1")
    assert _usd(run, run.created + 7200) == (0.0, False)
    machine = creations.begin(run.directory, "instance")
    assert _usd(run, machine.begun + 3600) == (pytest.approx(3.6), True)
    creations.refused(run.directory, machine, "no capacity")
    assert _usd(run, run.created + 7200) == (0.0, False)


def test_an_adopted_launch_is_billed_from_its_request(run: Run) -> None:
    """Up to a minute before its id was known."""
    machine = creations.begin(run.directory, "instance")
    creations.answered(run.directory, machine, "i-1")
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=3.6)
    late = journal.read(run.directory).events[-1].time
    assert _usd(run, machine.begun + 60.0) == (pytest.approx(0.06), False)
    assert _usd(run, max(late, machine.begun) + 60.0)[0] == pytest.approx(0.12)


def test_a_machine_that_is_gone_costs_nothing_more(workspace: Workspace, run: Run) -> None:
    """Though its run is open, for a key that cannot be deleted."""
    machine = creations.begin(run.directory, "instance")
    creations.answered(run.directory, machine, "i-1")
    creations.deleted(run.directory, "i-1")
    journal.append(run.directory, "leak_risk", reason="the key", id="i-1")
    assert _usd(run, machine.begun + 7200) == (pytest.approx(0.06), False)
    job = Job.settled(workspace, Display.silent(), run.id, lambda: None)
    assert job.cost() == pytest.approx(0.06)


def test_a_twin_is_in_the_bill_with_a_note(run: Run) -> None:
    """From the launch that was carried out twice, each machine in increments of its own."""
    machine = creations.begin(run.directory, "instance")
    creations.answered(run.directory, machine, "i-1")
    creations.found(run.directory, "i-2")
    creations.deleted(run.directory, "i-2")
    bill = Bill.of(journal.read(run.directory), providers.load("lambda"), machine.begun + 3600)
    assert bill.usd == pytest.approx(3.66)
    assert bill.notes == ("a launch was carried out twice: machine i-2 is $0.06 of the bill",)


def test_a_machine_of_a_cloud_with_a_minimum_is_in_the_bill_for_so_long(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was there for 10 s as if for 60 where a minute is the least, one that was there for 90 s for these."""
    provider = providers.load("lambda")
    limits = provider.limits._replace(billing_increment_s=1.0, billing_minimum_s=60.0)
    monkeypatch.setattr(type(provider), "limits", property(lambda _: limits))
    machine = creations.begin(run.directory, "instance")
    creations.answered(run.directory, machine, "i-1")
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=3.6)
    assert _usd(run, machine.begun + 10.0) == (pytest.approx(0.06), False)
    assert _usd(run, machine.begun + 89.5) == (pytest.approx(0.09), False)


@pytest.mark.parametrize("whole", [True, False])
def test_a_vendor_s_machine_is_billed_until_its_plugin_has_seen_it_end(
    run: Run, whole: bool
) -> None:
    """And not until it is proved; where an `up` was broken off there may be one that the plugin does not know."""
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=3.6)
    if whole:
        journal.append(run.directory, "up_ended")
    history, provider = journal.read(run.directory), providers.load("aws")
    begun = history.last("up_started")
    assert begun is not None
    bill = Bill.of(history, provider, begun.time + 200.0, ended=begun.time + 100.0)
    assert bill.lived_s == pytest.approx(100.0 if whole else 200.0)
    assert bill.usd == pytest.approx(0.1 if whole else 0.2, rel=0.02)
