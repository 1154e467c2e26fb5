"""What has been spent adds up, whichever way it is looked at, and is never more certain than it is."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime.spending import Spending
from dayfly.stacks import journal
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.test_cli import dayfly
from tests.test_page import read

_RECEIPT = Receipt("r", "local", 2, 2, 0, 0.0, 50.0, 3.6, 0.06, "pulumi", billed_s=60.0)


def _run(workspace: Workspace, receipt: Receipt | None, **details: Any) -> History:
    run_id = runs.opened(workspace, **details)
    directory = workspace.directory(run_id)
    journal.append(directory, "up_started")
    if receipt is not None:
        runs.launched(workspace, run_id)
        journal.write_receipt(directory, receipt.as_dict())
    return journal.read(directory)


def test_receipts_add_up_by_day_provider_and_function(workspace: Workspace) -> None:
    """Minutes are those that were billed."""
    dear = dataclasses.replace(_RECEIPT, usd=2.0, billed_s=600.0)
    histories = [
        _run(workspace, _RECEIPT, function="a:f"),
        _run(workspace, _RECEIPT, function="a:f"),
        _run(workspace, dear, function="b:g", job_name="night"),
    ]
    spending = Spending.of(histories, time.time())
    assert (spending.total.runs, spending.total.minutes) == (3, 12.0)
    assert spending.total.usd == pytest.approx(2.12)
    # The job's name stands for the function, where it has one.
    assert [(total.name, total.runs) for total in spending.by("function")] == [
        ("a:f", 2),
        ("night", 1),
    ]
    assert [total.name for total in spending.by("provider")] == ["local"]
    assert [total.name for total in spending.by("day")] == [time.strftime("%Y-%m-%d")]


def test_an_open_run_counts_up_to_now_in_whole_increments(workspace: Workspace) -> None:
    """At the rate of its launch."""
    run_id = runs.opened(workspace)
    runs.launched(workspace, run_id)
    history = journal.read(workspace.directory(run_id))
    launched = history.last("launched")
    assert launched is not None
    spending = Spending.of([history], launched.time + 599.5)
    assert spending.total.minutes == 10.0
    assert spending.total.usd == pytest.approx(0.6)
    assert spending.expenses[0].open
    assert spending.at_most == ()


def test_a_launch_that_was_never_answered_is_listed_as_at_most(workspace: Workspace) -> None:
    """Open or closed: there may have been a machine since the question, and none before."""
    unanswered = _run(workspace, None)
    closed = _run(workspace, dataclasses.replace(_RECEIPT, at_most=True))
    spending = Spending.of([unanswered, closed], time.time() + 3600)
    assert {expense.run for expense in spending.at_most} == {unanswered.id, closed.id}
    assert spending.expenses[0].usd == pytest.approx(3.6, rel=0.01)


def test_what_launched_nothing_costs_nothing_and_is_not_counted(workspace: Workspace) -> None:
    """A refusal, or a client that died before it asked."""
    nothing = dataclasses.replace(_RECEIPT, lived_s=0.0, usd=0.0, billed_s=0.0)
    histories = [
        _run(workspace, nothing),
        journal.read(workspace.directory(runs.opened(workspace))),
    ]
    assert Spending.of(histories, time.time()).expenses == ()


def test_a_receipt_of_an_older_version_is_read(workspace: Workspace) -> None:
    """It had neither the billed seconds nor the doubt."""
    values = _RECEIPT.as_dict()
    del values["billed_s"], values["at_most"]
    receipt = Receipt.from_dict(values)
    assert receipt.minutes == pytest.approx(50 / 60)
    assert not receipt.at_most


@pytest.mark.process
def test_the_command_line_tells_all_of_it(workspace: Workspace, tmp_path: Path) -> None:
    """As tables, as JSON, and since a day."""
    assert "nothing has been spent" in dayfly("cost").stderr
    _run(workspace, _RECEIPT)
    doubtful = _run(workspace, dataclasses.replace(_RECEIPT, at_most=True))
    told = json.loads(dayfly("cost", "--json", "--since", "1d").stdout)
    assert told["total"] == {"name": "total", "runs": 2, "minutes": 2.0, "usd": 0.12}
    assert told["at_most"] == [doubtful.id]
    assert [day["runs"] for day in told["by_day"]] == [2]
    shown = dayfly("cost")
    assert "total  2     2.0      $0.12" in shown.stdout
    assert f"{doubtful.id[:12]} has cost $0.06 at most" in shown.stderr
    assert json.loads(dayfly("cost", "--json", "--since", "2100-01-01").stdout)["runs"] == []
    by_day = dayfly("cost", "--by", "day").stdout
    assert "DAY" in by_day
    assert "FUNCTION" not in by_day
    assert "by_day" not in json.loads(dayfly("cost", "--json", "--by", "provider").stdout)
    wrong = dayfly("cost", "--since", "yesterday")
    assert (wrong.returncode, "'yesterday'" in wrong.stderr) == (2, True)


@pytest.mark.process
def test_a_page_draws_a_bar_for_each_sum(workspace: Workspace, tmp_path: Path) -> None:
    """Well formed, with every run, and nothing in it that could load or run."""
    file = tmp_path / "cost.html"
    assert dayfly("cost", "--html", str(file)).returncode == 0
    assert "$0.00 spent" in read(file.read_text()).text
    _run(workspace, _RECEIPT, function="a:<script>")
    doubtful = _run(workspace, dataclasses.replace(_RECEIPT, usd=3.0, at_most=True), function="b:g")
    done = dayfly("cost", "--html", str(file), "--since", "1d")
    assert str(file) in done.stderr
    page = read(file.read_text())
    assert "$3.06 spent since" in page.text
    assert "a:<script>" in page.text
    assert f"{doubtful.id[:12]}" in page.text
    assert "$3.00 at most" in page.text
    bars = [float(attributes["width"] or 0) for tag, attributes in page.elements if tag == "rect"]
    # By day, by provider, and two functions, of which the second has cost the most.
    assert len(bars) == 4
    assert bars[3] == max(bars)
    assert bars[2] == pytest.approx(bars[3] * 0.02, abs=0.1)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe"})
