"""A machine that turns up after its run was closed is ended, and the receipt tells of it: asked of the account itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly.errors import LeakRisk
from dayfly.infra import providers
from dayfly.infra.found import Found
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_records import Launch
from dayfly.infra.offers import Offer
from dayfly.infra.providers.lambda_cloud import LambdaCloud
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime import tend
from dayfly.runtime.context import Context
from dayfly.stacks import intent, journal, late_look, latecomers
from dayfly.stacks.closer import Closer
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.standing import standing
from dayfly.stacks.workspace import Workspace
from tests import runs
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options
from tests.test_cli import dayfly

pytestmark = pytest.mark.process
_OFFER = Offer("lambda", "us-east-1", "gpu_1x_a10", 30, 200 << 30, 6.0)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An account whose machines are rows, two hundred times as fast."""
    options = Options(machines=False, time_scale=200, request_interval_s=0, launch_interval_s=0)
    with Emulator(options) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


def _closed(workspace: Workspace) -> Run:
    """A run on Lambda that launched nothing, and has its receipt."""
    run = intent.write(workspace, new_id(), Spec(provider="lambda"), _OFFER)
    assert Closer(workspace, None).close(run.id).usd == 0.0
    return run


def _launched(run: Run) -> str:
    """A machine with the run's tags that no record of this computer knows."""
    api = LambdaApi.from_environment()
    key = api.add_ssh_key(f"dayfly-test-{run.id}", run.public_key)
    assert key
    return api.launch(
        Launch(
            region=_OFFER.region,
            instance_type=_OFFER.instance_type,
            ssh_key=f"dayfly-test-{run.id}",
            name="late",
            rulesets=(),
            file_systems=(),
            tags=run.tags,
            user_data="",
        )
    )


def _wait_until_listed(machine: str) -> None:
    """The emulator's listing lags, too."""
    until = time.monotonic() + 30
    while machine not in [row.id for row in LambdaApi.from_environment().instances()]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_gc_destroys_what_came_after_the_receipt_and_every_view_tells_it(
    workspace: Workspace, cloud: Emulator
) -> None:
    """The receipt is amended, at most; `show`, `cost` and `ps --all` go by it."""
    run = _closed(workspace)
    late = _launched(run)
    assert [row["id"] for row in cloud.live()] == [late]
    done = dayfly("gc", "--yes")
    assert (done.returncode, cloud.live()) == (0, []), done
    receipt = Receipt.of(run.directory)
    assert receipt is not None
    assert (receipt.destroyed, receipt.left, receipt.at_most) == (1, 0, True)
    assert receipt.usd >= cloud.meter()["dollars"] > 0
    assert late in receipt.notes[-1]
    assert late in dayfly("show", run.id).stdout
    spent = json.loads(dayfly("cost", "--json").stdout)["total"]
    assert spent["usd"] == pytest.approx(receipt.usd)
    (listed,) = json.loads(dayfly("ps", "--all", "--json").stdout)
    assert (listed["status"], listed["usd"]) == ("CLOSED", pytest.approx(receipt.usd))
    assert "nothing to destroy" in dayfly("gc", "--yes").stderr


def test_a_late_look_ends_what_no_listing_could_show_before(
    workspace: Workspace, cloud: Emulator
) -> None:
    """Its receipt is amended; a look that finds nothing leaves it as it is."""
    run = _closed(workspace)
    before = (run.directory / journal.RECEIPT).read_bytes()
    late_look.put(run.directory, time.time())
    assert tend.tend(Context.open(), run.id, lambda _: None) is None
    assert (run.directory / journal.RECEIPT).read_bytes() == before
    assert late_look.due(run.directory) is None
    late = _launched(run)
    _wait_until_listed(late)
    late_look.put(run.directory, time.time())
    assert tend.tend(Context.open(), run.id, lambda _: None) is None
    receipt = Receipt.of(run.directory)
    assert receipt is not None
    assert (receipt.destroyed, receipt.at_most, cloud.live()) == (1, True, [])
    assert late in receipt.notes[-1]
    assert late_look.due(run.directory) is None


def test_a_late_look_that_cannot_be_taken_is_owed_still(
    workspace: Workspace, cloud: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper tries again; a file that says no time asks for a look at once."""
    run = _closed(workspace)
    (run.directory / late_look.FILE).write_text("soon")
    assert late_look.due(run.directory) == 0.0

    def refused(_self: LambdaCloud, _owner: str | None) -> list[Found]:
        raise OSError("no route")

    monkeypatch.setattr(LambdaCloud, "inventory", refused)
    with pytest.raises(OSError, match="no route"):
        tend.tend(Context.open(), run.id, lambda _: None)
    assert late_look.due(run.directory) == 0.0


def test_a_run_with_a_latecomer_is_open_until_that_is_proved_gone(
    workspace: Workspace, cloud: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be ended now is a LeakRisk, and nobody reads the old receipt meanwhile."""
    run = _closed(workspace)
    late = _launched(run)

    def refused(_self: LambdaCloud, _found: Found) -> None:
        raise OSError("no route")

    with monkeypatch.context() as patch:
        patch.setattr(LambdaCloud, "terminate", refused)
        assert dayfly("gc", "--yes").returncode == LeakRisk.exit_code
    history = journal.read(run.directory)
    assert (history.closed, Receipt.of(run.directory)) == (False, None)
    assert dayfly("gc", "--yes").returncode == 0
    receipt = Receipt.of(run.directory)
    assert receipt is not None
    assert late in receipt.notes[-1]
    assert cloud.live() == []


def test_a_run_is_opened_again_once_and_is_nobody_s_then(workspace: Workspace) -> None:
    """Its client, who lives, has its receipt, and does not come back to it."""
    run_id = runs.opened(workspace)
    runs.closed(workspace, run_id)
    directory: Path = workspace.directory(run_id)
    found = [Found("instance", "i-9", {"dayfly-run": run_id})]
    assert latecomers.reopen(directory, "local", found)
    assert not latecomers.reopen(directory, "local", found)
    assert standing(journal.read(directory), time.time())[0] == "ORPHAN"


def test_a_latecomer_is_billed_from_when_it_can_have_begun(workspace: Workspace) -> None:
    """On top of what the receipt said, and only if it lived; a tag that is no time tells nothing."""
    run_id = runs.opened(workspace)
    runs.closed(workspace, run_id)
    directory = workspace.directory(run_id)
    created = float(journal.read(directory).intent["created"])
    tags = {"dayfly-run": run_id, "dayfly-created": "yesterday"}
    ended = Found("instance", "listed-late", {"dayfly-run": run_id})
    latecomers.reopen(
        directory, "local", [Found("instance", "i-9", tags), ended, Found("key", "k")]
    )
    for kind, id in (("instance", "i-9"), ("instance", "i-9"), ("key", "k")):
        journal.append(directory, "terminating", kind=kind, id=id)
    history = journal.read(directory)
    assert history.reopened is not None
    local = providers.load("local")
    receipt = latecomers.amended(history, history.reopened, 3.6, local, created + 1000)
    assert receipt.usd == pytest.approx(0.6 + 1.0)
    assert receipt.destroyed == 3
    assert receipt.lived_s == pytest.approx(1600)
