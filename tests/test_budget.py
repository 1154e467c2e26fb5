"""Budgets and what is left of them: no run begins with which those of a day or a month might cost more, whatever else is under way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import BudgetExceeded, ConfigurationError, RunBusy
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.runtime.call import Call
from dayfly.runtime.context import Context
from dayfly.stacks import allowance, intent, journal
from dayfly.stacks.allowance import taken_usd
from dayfly.stacks.budget import Budget
from dayfly.stacks.commitment import committed_usd
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.settings import Setting, Settings
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_cli import dayfly

_DAY = Budget("budget_per_day", 10.0, "a test")
_MONTH = Budget("budget_per_month", 10.0, "a test")
# At the $3.60 an hour of the tests' Offer.
_DOLLAR_S = 1000.0


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of this computer's calendar, so that no day ends within a test."""
    # East of Greenwich it is later; POSIX counts westward.
    monkeypatch.setenv("TZ", f"TEST{time.gmtime().tm_hour - 12:+d}")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _spec(usd: float) -> Spec:
    return Spec(max_runtime=usd * _DOLLAR_S, job_name="night")


def _left(workspace: Workspace, usd: float, *budgets: Budget) -> None:
    """Refuses one that may cost so much."""
    allowance.affordable(workspace.home, budgets or (_DAY,), _spec(usd), [runs.OFFER])


def _limited(workspace: Workspace, *budgets: Budget) -> Workspace:
    return dataclasses.replace(workspace, budgets=budgets or (_DAY,))


def _closed(workspace: Workspace, usd: float, **details: Any) -> str:
    run_id = runs.opened(workspace, spec=_spec(9), **details)
    runs.launched(workspace, run_id)
    receipt = Receipt(run_id, "local", 2, 2, 0, time.time(), 60.0, 3.6, usd, "pulumi")
    journal.write_receipt(workspace.directory(run_id), receipt.as_dict())
    return run_id


def test_what_is_left_of_a_day_pays_for_one_more_run(workspace: Workspace) -> None:
    """Closed runs by their receipts, open ones by what they may cost until their deadlines."""
    limited = _limited(workspace)
    _closed(limited, 2.5)
    runs.opened(limited, spec=_spec(5))
    _left(limited, 2.5)
    with pytest.raises(BudgetExceeded) as refused:
        runs.opened(limited, spec=_spec(2.6))
    today = time.strftime("%Y-%m-%d")
    for word in ("budget_per_day=$10 (a test)", "$7.50", "$2.60", "max_cost=2.50", today):
        assert word in str(refused.value)
    # Nothing of it is written down, and what is left is not taken.
    assert len(journal.histories(limited.runs, closed=True)) == 2
    runs.opened(limited, spec=_spec(2.4))
    with pytest.raises(BudgetExceeded, match=r"max_cost=0\.10"):
        runs.opened(limited, spec=_spec(1))


def test_a_month_is_that_of_the_calendar(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """What was asked for in another one, or on another day, does not count."""
    now = time.mktime((2026, 11, 15, 12, 0, 0, 0, 0, -1))
    days = {day: now - day * 86400 for day in (0, 1, 20)}
    for moment in days.values():
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        _closed(workspace, 4.0)
    monkeypatch.setattr(time, "time", lambda: now)
    found = allowance.commitments(workspace.home, now)
    assert taken_usd(_DAY, found, now) == 4.0
    assert taken_usd(_MONTH, found, now) == 8.0
    _left(workspace, 5.0)
    with pytest.raises(BudgetExceeded, match=r"budget_per_month=\$10 .* of 2026-11 "):
        _left(workspace, 5.0, _DAY, _MONTH)


def test_what_was_refused_or_is_on_another_run_s_machine_costs_nothing(workspace: Workspace) -> None:  # fmt: skip
    """So that the next rung of a ladder may begin while the one below is cleared away."""
    limited = _limited(workspace)
    refused = runs.opened(limited, spec=_spec(9))
    journal.append(limited.directory(refused), "up_started")
    journal.append(limited.directory(refused), "up_failed", kind="capacity", message="full")
    host = runs.opened(limited, spec=_spec(9))
    runs.launched(limited, host)
    guest = new_id()
    intent.write(limited, guest, _spec(9), runs.OFFER, host=journal.read(limited.directory(host)))
    found = allowance.commitments(limited.home, time.time())
    assert len(found) == 3
    assert taken_usd(_DAY, found, time.time()) == pytest.approx(9.0)


def test_a_run_that_has_outlived_its_deadline_counts_as_what_it_has_cost(workspace: Workspace) -> None:  # fmt: skip
    """Which is more than it was to cost at most."""
    run_id = runs.opened(workspace, spec=_spec(1))
    runs.launched(workspace, run_id)
    history = journal.read(workspace.directory(run_id))
    assert committed_usd(history, time.time()) == pytest.approx(1.0)
    assert committed_usd(history, time.time() + 3600) == pytest.approx(3.6, rel=0.01)


def test_of_many_runs_at_once_no_more_begin_than_are_paid_for(workspace: Workspace) -> None:
    """They ask one after the other."""
    limited, begun = _limited(workspace), list[str]()

    def begin() -> None:
        with contextlib.suppress(BudgetExceeded):
            begun.append(runs.opened(limited, spec=_spec(3)))

    threads = [threading.Thread(target=begin) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 3
    assert len(journal.histories(limited.runs)) == 3


def test_what_costs_nothing_needs_no_budget(workspace: Workspace) -> None:
    """This computer, even where all is spent."""
    limited = _limited(workspace)
    _closed(limited, 99.0)
    free = dataclasses.replace(runs.OFFER, usd_per_hour=0.0)
    intent.write(limited, new_id(), _spec(9), free)


def test_a_run_that_cannot_be_read_is_named(workspace: Workspace) -> None:
    """Nobody knows what is left then; one that was closed long ago does not matter."""
    run_id = _closed(workspace, 1.0)
    file = workspace.directory(run_id) / "journal.jsonl"
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigurationError, match=f"{run_id[:12]} cannot be read"):
        _left(workspace, 1.0)
    long_ago = time.time() - 40 * 86400
    os.utime(workspace.directory(run_id) / "receipt.json", (long_ago, long_ago))
    _left(workspace, 10.0)


def test_the_next_call_may_begin_while_the_last_machine_is_destroyed(workspace: Workspace) -> None:
    """Its caller has the value; ten minutes are more than its end takes. One that keeps its machine has not ended."""
    run_id = runs.opened(workspace, spec=_spec(9))
    runs.launched(workspace, run_id)
    kept = runs.opened(workspace, spec=dataclasses.replace(_spec(5), keep="10m"))
    runs.launched(workspace, kept)
    now = time.time()
    found = allowance.commitments(workspace.home, now)
    assert taken_usd(_DAY, found, now) == pytest.approx(14.0)
    for each in (run_id, kept):
        journal.append(workspace.directory(each), "result_fetched")
    found = allowance.commitments(workspace.home, now)
    assert taken_usd(_DAY, found, now) == pytest.approx(0.6 + 5.0, abs=0.01)
    journal.append(workspace.directory(kept), "closing")
    found = allowance.commitments(workspace.home, now)
    assert taken_usd(_DAY, found, now) == pytest.approx(1.2, abs=0.02)


def test_an_overdue_run_of_another_day_counts_today(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that it costs: nobody has destroyed it."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 2 * 86400)
    run_id = runs.opened(workspace, spec=_spec(1))
    runs.launched(workspace, run_id)
    monkeypatch.setattr(time, "time", lambda: now)
    found = allowance.commitments(workspace.home, now)
    assert taken_usd(_DAY, found, now) == pytest.approx(2 * 24 * 3.6, rel=0.01)
    then = now - 2 * 86400
    found = allowance.commitments(workspace.home, then)
    assert taken_usd(_DAY, found, then) == pytest.approx(1.0)


def test_a_run_of_another_home_is_not_this_one_s(workspace: Workspace) -> None:
    """Whoever looks at it has a copy of its journal."""
    run_id = runs.opened(workspace, spec=_spec(9), home="another")
    runs.launched(workspace, run_id)
    assert committed_usd(journal.read(workspace.directory(run_id)), time.time()) == 0.0


def test_offers_that_are_too_dear_are_no_rungs(workspace: Workspace) -> None:
    """The others are; where there is none the cheapest is told of."""
    dear = dataclasses.replace(runs.OFFER, usd_per_hour=7.2)
    offers = allowance.affordable(workspace.home, [_DAY], _spec(6), [dear, runs.OFFER])
    assert offers == (runs.OFFER,)
    with pytest.raises(BudgetExceeded, match=r"may cost \$11\.00"):
        allowance.affordable(workspace.home, [_DAY], _spec(11), [dear, runs.OFFER])


def test_what_max_cost_asks_for_is_what_it_may_cost(workspace: Workspace) -> None:
    """Also where the time that it pays for is no round number."""
    for cents in range(1, 400, 7):
        offer = dataclasses.replace(runs.OFFER, usd_per_hour=0.69 + cents / 100)
        spec = Spec(max_runtime="9d", max_cost=10.0)
        assert allowance.affordable(workspace.home, [_DAY], spec, [offer])


def test_whoever_holds_the_budgets_too_long_is_told_of(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says which lock it is."""
    monkeypatch.setattr(allowance, "_WAIT_S", 0.0)
    with (
        allowance.reserved(workspace.home, [_DAY], 1.0),
        pytest.raises(RunBusy, match=r"budget\.lock"),
        allowance.reserved(workspace.home, [_DAY], 1.0),
    ):
        raise AssertionError("two at once")
    with allowance.reserved(workspace.home, [_DAY], 1.0):
        pass


@pytest.mark.parametrize("value", [0, -1, "lots", True, float("nan"), float("inf")])
def test_a_budget_is_a_number_of_dollars(value: object) -> None:
    """The refusal names where it is set, and comes when it is needed: it must not hinder a teardown."""
    settings = Settings({"budget_per_day": Setting(value, "the user's file")})
    (wrong,) = Workspace.open(settings).budgets
    with pytest.raises(ConfigurationError, match=r"budget_per_day=.*the user's file"):
        _left(Workspace.open(settings), 1.0, wrong)
    assert Budget.all_of(Settings({})) == ()


def test_a_call_is_refused_before_anything_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the words of the setting; a plan of it is made all the same."""
    monkeypatch.setenv("DAYFLY_BUDGET_PER_DAY", "1")
    monkeypatch.setenv("LAMBDA_API_KEY", "secret_a.0123456789abcdef")
    monkeypatch.setattr(
        "dayfly.infra.lambda_key.is_there", lambda: False
    )  # the catalog's prices, and no API
    monkeypatch.setattr("dayfly.infra.providers.lambda_cloud.PROVIDER.preflight", lambda: ())
    spec = Spec(provider="lambda", instance_type="gpu_1x_a10", environment=[], max_runtime="2h")
    with pytest.raises(BudgetExceeded, match=r"DAYFLY_BUDGET_PER_DAY.*\$2.58"):
        Call.prepare(len, [[]], {}, spec)
    assert journal.histories(Context.open().workspace.runs, closed=True) == []
    assert Call.prepare(len, [[]], {}, spec, to_run=False).offers
    assert Call.prepare(len, [[]], {}, dataclasses.replace(spec, max_cost=0.9)).offers


@pytest.mark.process
def test_dayfly_cost_tells_what_is_left(workspace: Workspace) -> None:
    """Also where nothing has been spent."""
    variables = {"DAYFLY_BUDGET_PER_DAY": "10", "DAYFLY_BUDGET_PER_MONTH": "100"}
    assert "budget_per_day: $0.00 of $10.00" in dayfly("cost", **variables).stderr
    _closed(workspace, 2.5)
    told = dayfly("cost", **variables).stderr
    assert "budget_per_day: $2.50 of $10.00 are spent in" in told
    assert "budget_per_month: $2.50 of $100.00" in told
    day, month = json.loads(dayfly("cost", "--json", **variables).stdout)["budgets"]
    assert (day["usd"], day["taken_usd"], day["period"]) == (10, 2.5, time.strftime("%Y-%m-%d"))
    assert month["setting"] == "budget_per_month"
