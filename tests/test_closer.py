"""Absence is proved before a run is forgotten; what cannot be proved is a LeakRisk that names all there is to know."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dayfly.errors import LeakRisk, ProvisionFailed, RunBusy
from dayfly.infra import creations, fence, providers
from dayfly.infra.found import Found, State
from dayfly.infra.held import Held, Whose
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import Limits, Provider
from dayfly.infra.providers.lambda_cloud import LambdaCloud
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.infra.vendor import VendorProvider
from dayfly.stacks import intent, journal, late_look, run_lock, state
from dayfly.stacks.bill import Bill
from dayfly.stacks.census import has_ended
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine_teardown import EngineTeardown
from dayfly.stacks.journal import History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.workspace import Workspace
from tests.emulators.until import until

_LAG_S, _LATE_S = 30.0, 900.0


class Cloud(Provider):
    """A provider whose listing lags and whose lost launches come late, on a clock that the test owns."""

    name = "testcloud"
    limits = Limits(_LAG_S, _LATE_S, 60.0, "it goes on billing", "https://console.test")

    def __init__(self) -> None:
        self.time = time.time()
        self.appears: list[tuple[float, Found]] = []
        self.terminated: list[str] = []
        self.states: dict[str, State] = {}
        self.looks = 0
        self.broken: Exception | None = None
        self.immortal = False
        self.account = ""

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def launch(self, run: Run, id: str, *, listed_after_s: float = 0.0) -> None:
        found = Found("instance", id, run.tags)
        self.appears.append((self.time + listed_after_s, found))

    def place(self) -> str:
        return self.account

    def offers(self, spec: Spec) -> Sequence[Offer]:
        return [Offer("testcloud", "eu", "gpu", 8, 1 << 30, 12.0)]

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Mapping[str, Any]:
        return {}

    def inventory(self, owner: str | None) -> Sequence[Found]:
        self.looks += 1
        if self.broken is not None:
            raise self.broken
        return [found for since, found in self.appears if since <= self.time]

    def terminate(self, found: Found) -> None:
        self.terminated.append(found.id)
        if not self.immortal:
            self.appears = [(since, held) for since, held in self.appears if held.id != found.id]

    def instance_state(self, id: str) -> State:
        return self.states.get(id, "unknown")


class Recording(Cloud):
    """The same with every creating request on record."""

    keeps_creations = True


class Vendored(Cloud, VendorProvider):
    """The same with machines that a vendor's plugin makes, and tells of when they run."""

    plugin = "test"
    machine = "test:Machine"
    free = frozenset({"test:Firewall"})

    def owns(self, held: Held, whose: Whose) -> bool:
        return held.id.startswith(("i-", "sg-"))

    def sets(self, settings: Mapping[str, Any], whose: Whose) -> bool:
        return settings == {}

    def without_credentials(self) -> Sequence[str]:
        return ()


@pytest.fixture
def sort() -> type[Cloud]:
    """Which of the two a test is about."""
    return Cloud


@pytest.fixture
def cloud(sort: type[Cloud], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A provider found by its file's name, like any other."""
    (tmp_path / "testcloud.py").write_text("")
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(tmp_path)])
    module = ModuleType("dayfly.infra.providers.testcloud")
    provider = sort()
    module.__dict__["PROVIDER"] = provider
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _forget_providers()
    yield provider
    monkeypatch.undo()
    _forget_providers()


def _forget_providers() -> None:
    providers.names.cache_clear()
    providers.load.cache_clear()


Open = Callable[..., Run]


@pytest.fixture
def opened(workspace: Workspace, cloud: Cloud) -> Open:
    """Journals a run up to a given event."""

    def to(*events: str) -> Run:
        spec = Spec.from_options({"provider": "local"})
        run = intent.write(workspace, new_id(), spec, cloud.offers(spec)[0])
        fields = {"launched": {"id": "i-1", "usd_per_hour": 12.0}}
        for event in events:
            journal.append(run.directory, event, **fields.get(event, {}))
        return run

    return to


def _closer(workspace: Workspace, cloud: Cloud, said: list[str] | None = None) -> Closer:
    report = (lambda _: None) if said is None else said.append
    return Closer(workspace, None, report, now=cloud.now, sleep=cloud.sleep)


def test_a_run_that_never_reached_the_engine_is_closed_at_once(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """Nothing was asked for, so nothing can come late."""
    run, begun = opened(), cloud.time
    receipt = _closer(workspace, cloud).close(run.id)
    assert (receipt.destroyed, receipt.left, receipt.usd) == (0, 0, 0.0)
    assert cloud.time - begun == _LAG_S


def test_a_launch_whose_answer_was_lost_is_waited_for(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """An empty listing proves nothing before late_create_s is over; then it is found by tag and ended."""
    run, said = opened("up_started"), list[str]()
    cloud.launch(run, "late", listed_after_s=_LATE_S - 1)
    receipt = _closer(workspace, cloud, said).close(run.id)
    assert cloud.terminated == ["late"]
    assert any("a lost launch may still appear" in text for text in said)
    assert receipt.notes == ("1 more found by tag and ended through the provider",)
    # It may have lived since it was asked for, in whole minutes as this provider bills, and never before.
    assert receipt.at_most
    assert receipt.minutes == math.ceil(receipt.lived_s / 60)
    assert receipt.usd == pytest.approx(12.0 * receipt.minutes / 60)


@pytest.mark.parametrize(("kind", "free"), [("capacity", True), ("transient", False)])
def test_a_launch_that_was_refused_costs_nothing(
    workspace: Workspace, cloud: Cloud, opened: Open, kind: str, free: bool
) -> None:
    """Nor is it waited for, where the provider has said no by a code of its own; what is merely unclear may come late."""
    run, begun = opened("up_started"), cloud.time
    journal.append(run.directory, "up_failed", kind=kind, message="")
    receipt = _closer(workspace, cloud).close(run.id)
    assert (receipt.usd == 0.0, receipt.at_most) == (free, not free)
    assert (cloud.time - begun == _LAG_S) == free


def test_after_an_up_that_ended_well_its_machines_are_followed_and_one_listing_is_enough(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """It has asked for nothing but what its stack holds, so that no lag has to be waited for."""
    run, begun = opened("up_started", "launched", "up_ended"), cloud.time
    cloud.states["i-1"] = "terminated"
    receipt = _closer(workspace, cloud).close(run.id)
    assert (receipt.left, cloud.looks, cloud.terminated) == (0, 1, [])
    assert cloud.time - begun < 1


def test_after_an_up_that_broke_off_two_listings_have_to_agree(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """The plugin may have been told of more than it could write down."""
    run, begun = opened("up_started", "launched"), cloud.time
    cloud.states["i-1"] = "terminated"
    _closer(workspace, cloud).close(run.id)
    assert cloud.looks == 2
    assert cloud.time - begun >= _LAG_S


def test_what_the_first_listing_missed_the_second_shows(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """Two listings have to agree, as far apart as the provider's listing lags."""
    run = opened("up_started", "launched")
    cloud.launch(run, "lagging", listed_after_s=_LAG_S / 2)
    assert _closer(workspace, cloud).close(run.id).left == 0
    assert cloud.terminated == ["lagging"]


def test_other_runs_of_the_same_owner_are_not_touched(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """The tag of this run decides, nothing else."""
    run, other = opened("up_started", "launched"), opened("up_started", "launched")
    cloud.launch(other, "other")
    _closer(workspace, cloud).close(run.id)
    assert cloud.terminated == []


@pytest.mark.parametrize("error", [ProvisionFailed("401 from the API"), OSError("no route")])
def test_a_listing_that_fails_is_a_leak_risk_that_says_everything(
    workspace: Workspace, cloud: Cloud, opened: Open, error: Exception
) -> None:
    """What, how much, where to look, which command; the run stays open and a later close succeeds."""
    run = opened("up_started", "launched")
    cloud.launch(run, "i-1")
    cloud.broken = error
    with pytest.raises(LeakRisk) as risk:
        _closer(workspace, cloud).close(run.id)
    command = f"dayfly gc --run {run.id} --yes"
    assert (risk.value.run, risk.value.resources, risk.value.usd_per_hour) == (
        run.id,
        ("i-1",),
        12.0,
    )
    assert (risk.value.console, risk.value.command) == ("https://console.test", command)
    for part in (str(error), "i-1", "$12/h", "https://console.test", command):
        assert part in str(risk.value)
    history = journal.read(run.directory)
    assert (history.closed, history.field("leak_risk", "id")) == (False, "i-1")
    cloud.broken = None
    assert _closer(workspace, cloud).close(run.id).left == 0
    assert cloud.terminated == ["i-1"]


def test_nothing_is_proved_with_the_credentials_of_another_account(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """That one knows none of the machine, which goes on billing; with its own it is ended. Also where they were written down
    before an account was."""
    cloud.account = "work"
    run = opened("up_started", "launched", "up_ended")
    assert journal.read(run.directory).intent["place"] == "work"
    elsewhere, cloud.account = cloud.appears, "private"
    cloud.time += 3600
    with pytest.raises(
        LeakRisk, match=r"it is in account work, and these credentials are of private"
    ):
        _closer(workspace, cloud).close(run.id)
    assert not journal.read(run.directory).closed
    assert not has_ended(journal.read(run.directory), cloud.time)
    cloud.account, cloud.appears = "work", elsewhere
    cloud.launch(run, "i-1")
    _closer(workspace, cloud).close(run.id)
    assert cloud.terminated == ["i-1"]
    cloud.account = ""
    old = opened("up_started", "launched", "up_ended")
    cloud.account = "private"
    assert _closer(workspace, cloud).close(old.id).left == 0


def test_a_run_whose_program_was_not_started_is_closed_without_credentials(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """Its client was killed before it gave them to the keeper, and nobody was asked for anything; any trace of more is a risk."""
    cloud.account = "work"
    begun, logged, run = opened("up_started"), opened(), opened()
    (logged.directory / journal.PROGRAM_LOG).touch()
    cloud.account = ""
    for other in (begun, logged):
        with pytest.raises(LeakRisk, match="these credentials are of none"):
            _closer(workspace, cloud).close(other.id)
    looks = cloud.looks
    receipt = _closer(workspace, cloud).close(run.id)
    assert (receipt.destroyed, receipt.left, receipt.usd, cloud.looks) == (0, 0, 0.0, looks)
    assert "nothing was asked of testcloud" in str(receipt.notes)


def test_a_machine_that_does_not_end_is_a_leak_risk(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """Not a wait for ever."""
    run = opened("up_started", "launched")
    cloud.launch(run, "i-1")
    cloud.immortal = True
    with pytest.raises(LeakRisk, match="is still there 600 s after it was ended"):
        _closer(workspace, cloud).close(run.id)
    assert not journal.read(run.directory).closed


def test_a_receipt_bills_from_the_launch_by_the_providers_increment(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """Rounded up, as the bill will be."""
    run = opened("up_started", "launched")
    cloud.sleep(595)
    receipt = _closer(workspace, cloud).close(run.id)
    assert receipt.usd == pytest.approx(12.0 * 11 / 60)
    assert receipt.usd_per_hour == 12.0
    assert Receipt.of(run.directory) == receipt


def test_closing_again_gives_the_same_receipt_and_no_keys_stay(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """But for the one that vouches for a result on this computer."""
    run = opened("up_started", "launched")
    receipt = _closer(workspace, cloud).close(run.id)
    assert _closer(workspace, cloud).close(run.id) == receipt
    left = {entry.name for entry in run.directory.iterdir()}
    assert left == {"journal.jsonl", "receipt.json", "close.lock", "hmac_key", "fence"}
    for name in left:
        assert (run.directory / name).stat().st_mode & 0o777 == 0o600


def test_two_closers_at_once_are_one_too_many(
    workspace: Workspace, cloud: Cloud, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits, and then names the first."""
    run = opened("up_started")
    monkeypatch.setattr(run_lock, "_WAIT_S", 0.1)
    with (
        run_lock.locked(run.directory),
        pytest.raises(RunBusy, match=r"process \d+ is closing run"),
    ):
        _closer(workspace, cloud).close(run.id)
    assert _closer(workspace, cloud).close(run.id).left == 0


def test_a_provider_that_this_version_does_not_have_is_a_leak_risk(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """A journal of another version, or an edited one: never a success, and never an end of the whole gc."""
    run = opened("up_started", "launched")
    journal.append(
        run.directory, "intent", **journal.read(run.directory).intent | {"provider": "x"}
    )
    with pytest.raises(LeakRisk, match="no provider 'x'"):
        _closer(workspace, cloud).close(run.id)
    assert not journal.read(run.directory).closed


@pytest.mark.parametrize("sort", [Recording])
class TestRecorded:
    """Where every creating request is on record, a teardown knows what there can be."""

    def test_a_run_that_asked_for_nothing_is_closed_without_a_wait(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """One listing proves it, although the engine had begun."""
        run, begun = opened("up_started"), cloud.time
        receipt = _closer(workspace, cloud).close(run.id)
        assert (receipt.left, receipt.usd, receipt.lived_s) == (0, 0.0, 0.0)
        assert (cloud.time, cloud.looks) == (begun, 1)

    def test_a_machine_that_the_engine_never_recorded_is_ended_by_its_id(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """Its listing lags behind; the bill ends when the provider says that it has ended."""
        run = opened("up_started")
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")
        key = creations.begin(run.directory, "key")
        creations.answered(run.directory, key, "k-1")
        cloud.states["i-1"] = "booting"
        ended = cloud.terminate

        def terminate(found: Found) -> None:
            ended(found)
            cloud.states["i-1"] = "terminated"

        cloud.terminate = terminate  # type: ignore[method-assign]
        receipt = _closer(workspace, cloud).close(run.id)
        assert cloud.terminated == ["i-1", "k-1"]
        assert (receipt.destroyed, receipt.left) == (1, 0)
        assert receipt.usd == pytest.approx(12.0 / 60)

    def test_a_machine_whose_id_is_known_ends_while_the_engine_starts(
        self,
        workspace: Workspace,
        cloud: Cloud,
        opened: Open,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Nobody pays for the seconds that the engine takes; what the engine has destroyed is counted once."""
        run = opened("up_started", "launched")
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")
        seen: list[str] = []

        def destroy(_part: EngineTeardown, _history: History) -> tuple[str, int, int]:
            seen.extend(cloud.terminated)
            creations.deleted(run.directory, "i-1")
            return "pulumi", 4, 4

        monkeypatch.setattr(EngineTeardown, "destroy", destroy)
        receipt = _closer(workspace, cloud).close(run.id)
        assert seen == cloud.terminated == ["i-1"]
        assert (receipt.destroyed, receipt.declared, receipt.notes) == (4, 4, ())

    def test_what_has_ended_before_the_engine_fails_is_counted_and_billed_until_then(
        self,
        workspace: Workspace,
        cloud: Cloud,
        opened: Open,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The engine has waited for its turn in vain, and nothing is left for the proof to end."""
        run = opened("up_started", "launched")
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")
        cloud.limits = cloud.limits._replace(billing_increment_s=0.06)

        def destroy(_part: EngineTeardown, _history: History) -> tuple[str, int, int]:
            cloud.states["i-1"] = "terminated"
            until(lambda: creations.read(run.directory)[0].outcome == "deleted")
            cloud.time += 3600
            return "provider", 4, 0

        monkeypatch.setattr(EngineTeardown, "destroy", destroy)
        receipt = _closer(workspace, cloud).close(run.id)
        assert (receipt.how, receipt.destroyed, receipt.left) == ("provider", 1, 0)
        assert receipt.lived_s < 3600

    def test_a_provider_that_cannot_be_asked_at_first_does_not_keep_the_engine_from_its_work(
        self,
        workspace: Workspace,
        cloud: Cloud,
        opened: Open,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The engine ends the machine then, and its end is proved as ever."""
        run = opened("up_started", "launched")
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")

        def refuse(found: Found) -> None:
            raise ProvisionFailed("out of order", "transient")

        def destroy(_part: EngineTeardown, _history: History) -> tuple[str, int, int]:
            creations.deleted(run.directory, "i-1")
            return "pulumi", 4, 4

        cloud.terminate = refuse  # type: ignore[method-assign]
        monkeypatch.setattr(EngineTeardown, "destroy", destroy)
        receipt = _closer(workspace, cloud).close(run.id)
        assert (receipt.destroyed, receipt.left) == (4, 0)

    @pytest.mark.parametrize("has_ruleset", [False, True])
    def test_a_twin_that_no_listing_can_show_yet_is_looked_for_later(
        self, workspace: Workspace, cloud: Cloud, opened: Open, *, has_ruleset: bool
    ) -> None:
        """Where no ruleset, which it would hold, is gone; nobody waits here for it."""
        run, said = opened("up_started"), list[str]()
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")
        if has_ruleset:
            rules = creations.begin(run.directory, "network")
            creations.answered(run.directory, rules, "r-1")
        cloud.states["i-1"] = "terminated"
        begun = cloud.time
        _closer(workspace, cloud, said).close(run.id)
        assert cloud.time - begun < _LAG_S / 2
        assert any("carried out twice" in text for text in said) != has_ruleset
        assert (late_look.due(run.directory) is None) == has_ruleset

    def test_an_id_that_is_not_known_yet_is_no_proof(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """The API may not show what was made a moment ago."""
        run = opened("up_started", "launched")
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")
        begun = cloud.time
        _closer(workspace, cloud).close(run.id)
        assert cloud.time - begun >= _LAG_S - 1
        assert set(cloud.terminated) == {"i-1"}

    def test_a_lost_launch_that_turns_up_early_is_not_waited_for_any_longer(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """It is ended within moments, not when the last one could have come."""
        run, begun = opened("up_started"), cloud.time
        creations.begin(run.directory, "instance")
        cloud.launch(run, "late", listed_after_s=20)
        receipt = _closer(workspace, cloud).close(run.id)
        assert cloud.terminated == ["late"]
        assert cloud.time - begun < 100
        assert receipt.usd > 0

    def test_a_lost_launch_that_never_comes_is_waited_for_to_the_end(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """And looked for all the while."""
        run, begun = opened("up_started"), cloud.time
        creations.begin(run.directory, "instance")
        assert _closer(workspace, cloud).close(run.id).left == 0
        assert cloud.time - begun >= _LATE_S
        assert cloud.looks > _LATE_S / 20

    def test_a_machine_that_does_not_end_by_its_id_is_a_leak_risk(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """The listing says that it is gone, and the provider says that it is not."""
        run = opened("up_started")
        creations.answered(run.directory, creations.begin(run.directory, "instance"), "i-1")
        cloud.states["i-1"] = "running"
        with pytest.raises(LeakRisk, match="i-1 is still there"):
            _closer(workspace, cloud).close(run.id)

    def test_a_process_that_is_still_creating_is_a_leak_risk(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """It has passed the fence, and nobody can tell when it will send its request."""
        run = opened("up_started")
        with (
            fence.passing(run.directory, run.deadline),
            pytest.raises(LeakRisk, match="may still be creating"),
        ):
            _closer(workspace, cloud).close(run.id)
        assert _closer(workspace, cloud).close(run.id).left == 0


def test_nothing_is_created_for_a_run_once_its_teardown_has_begun(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """For good: an orphan may ask days later."""
    run = opened("up_started", "launched")
    _closer(workspace, cloud).close(run.id)
    with pytest.raises(fence.FenceShut), fence.passing(run.directory, run.deadline):
        pytest.fail("it was passed")


def _unknown(workspace: Workspace, *, recorded: bool) -> Path:
    """A run whose journal was emptied, with or without the record of what it asked for."""
    directory = workspace.directory(new_id())
    directory.mkdir()
    (directory / journal.FILE).touch()
    if recorded:
        creations.answered(directory, creations.begin(directory, "instance"), "i-1")
    return directory


@pytest.mark.parametrize("sort", [Recording])
class TestWithoutIntent:
    """A run of which nobody knows where it was is signed for once everybody was asked who can have had it."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The record is the test's provider's only."""
        monkeypatch.setattr(LambdaCloud, "keeps_creations", False)

    def test_a_provider_on_record_that_cannot_be_asked_is_a_leak_risk(
        self, workspace: Workspace, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It names what is missing; with that, what is on record is ended by its id."""
        directory = _unknown(workspace, recorded=True)
        with monkeypatch.context() as patch:
            patch.setattr(cloud, "preflight", lambda: ["set TESTCLOUD_KEY"])
            with pytest.raises(LeakRisk, match="testcloud cannot be asked: set TESTCLOUD_KEY"):
                _closer(workspace, cloud).close(directory.name)
        assert not journal.read(directory).closed
        cloud.sleep(_LAG_S)
        cloud.states["i-1"] = "terminated"
        assert _closer(workspace, cloud).close(directory.name).left == 0
        assert cloud.looks

    @pytest.mark.parametrize(("configured", "risk"), [(True, True), (False, False)])
    def test_without_a_record_only_who_is_set_up_here_must_be_asked(
        self,
        workspace: Workspace,
        cloud: Cloud,
        monkeypatch: pytest.MonkeyPatch,
        configured: bool,
        risk: bool,
    ) -> None:
        """Else one damaged local run would be a LeakRisk of every cloud there is."""
        directory = _unknown(workspace, recorded=False)
        monkeypatch.setattr(cloud, "preflight", lambda: ["the key has a line break"])
        monkeypatch.setattr(cloud, "is_configured", lambda: configured)
        if risk:
            with pytest.raises(LeakRisk, match="line break"):
                _closer(workspace, cloud).close(directory.name)
        else:
            assert _closer(workspace, cloud).close(directory.name).left == 0


@pytest.mark.parametrize("sort", [Recording])
def test_a_twin_that_the_teardown_ends_is_in_the_receipt(
    workspace: Workspace, cloud: Cloud, opened: Open
) -> None:
    """It may have lived as long as the machine that was asked for; the note says what it has cost."""
    run = opened("up_started")
    machine = creations.begin(run.directory, "instance")
    creations.answered(run.directory, machine, "i-1")
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=12.0)
    cloud.launch(run, "i-1")
    cloud.launch(run, "i-2")
    receipt = _closer(workspace, cloud).close(run.id)
    assert sorted(set(cloud.terminated)) == ["i-1", "i-2"]
    assert receipt.minutes == 2.0
    assert receipt.usd == pytest.approx(0.4)
    assert receipt.notes[-1] == "a launch was carried out twice: machine i-2 is $0.20 of the bill"
    assert not receipt.at_most


def _state(workspace: Workspace, run: Run, *resources: tuple[str, str]) -> None:
    """What the engine has recorded of a run: types and ids."""
    file = state.file_of(workspace, run.id)
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    held = [{"type": t, "id": id, "custom": True, "urn": id} for t, id in resources]
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": held}}}))


class TestVendored:
    """What a vendor's plugin makes, and may be killed over."""

    @pytest.fixture
    def sort(self) -> type[Cloud]:
        return Vendored

    def test_a_machine_that_the_state_does_not_have_ends_before_the_engine_begins(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """The firewall that it uses cannot be deleted before; the engine would wait, and the machine cost money."""
        run = opened("up_started")
        _state(workspace, run, ("test:Firewall", "sg-1"), ("test:Machine", "i-1"))
        cloud.launch(run, "i-1")
        cloud.launch(run, "region/i-2")
        receipt = _closer(workspace, cloud).close(run.id)
        names = [
            (event.name, event.fields.get("id"))
            for event in journal.read(run.directory).events
            if event.name in ("terminating", "engine_teardown_failed")
        ]
        assert names[:2] == [("terminating", "region/i-2"), ("engine_teardown_failed", None)]
        assert any("region/i-2, which its state had not" in note for note in receipt.notes)
        assert set(cloud.terminated) == {"region/i-2", "i-1"}

    def test_after_an_up_that_ended_well_nobody_looks_for_others(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """Its state has all that there is; the listing that is taken later proves it."""
        run = opened("up_started", "launched", "up_ended")
        _state(workspace, run, ("test:Machine", "i-1"))
        cloud.states["i-1"] = "terminated"
        _closer(workspace, cloud).close(run.id)
        assert cloud.looks == 1

    @pytest.mark.parametrize("kind", ["auth", "rate_limit", "capacity"])
    def test_a_refusal_is_none_of_the_machine_where_the_state_has_one(
        self, workspace: Workspace, cloud: Cloud, opened: Open, kind: str
    ) -> None:
        """The plugin was refused a look at what it had launched: it lived, and costs money."""
        run = opened("up_started")
        journal.append(run.directory, "up_failed", kind=kind, message="")
        _state(workspace, run, ("test:Machine", "i-1"))
        cloud.time += 600
        receipt = _closer(workspace, cloud).close(run.id)
        assert receipt.usd > 0
        assert receipt.at_most

    @pytest.mark.parametrize("kind", ["auth", "rate_limit", "invalid"])
    def test_a_refusal_that_left_no_machine_costs_nothing(
        self, workspace: Workspace, cloud: Cloud, opened: Open, kind: str
    ) -> None:
        """And is not known to be one before the state was read."""
        run, begun = opened("up_started"), cloud.time
        journal.append(run.directory, "up_failed", kind=kind, message="")
        _state(workspace, run, ("test:Firewall", "sg-1"))
        assert Bill.of(journal.read(run.directory), cloud, cloud.time + 60).at_most
        receipt = _closer(workspace, cloud).close(run.id)
        assert (receipt.usd, receipt.at_most) == (0.0, False)
        assert cloud.time - begun < _LATE_S

    def test_a_bill_begins_when_the_machine_was_asked_for(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """The plugin tells of it when it runs, minutes later at some clouds."""
        run = opened("up_started", "launched", "up_ended")
        _delay(run, "launched", 300)
        history = journal.read(run.directory)
        (asked,) = (event.time for event in history.events if event.name == "up_started")
        bill = Bill.of(history, cloud, asked + 3600)
        assert bill.lived_s == pytest.approx(3600, abs=1e-3)

    def test_a_late_launch_is_waited_for_from_the_end_of_the_engine(
        self, workspace: Workspace, cloud: Cloud, opened: Open
    ) -> None:
        """It may work on for minutes when its client is gone; once it has ended, that is written down once."""
        run = opened("up_started")
        _delay(run, "up_started", -3600)
        cloud.launch(run, "late", listed_after_s=_LATE_S - 1)
        _closer(workspace, cloud).close(run.id)
        assert cloud.terminated == ["late"]
        names = [event.name for event in journal.read(run.directory).events]
        assert names.count("engine_ended") == 1


def _delay(run: Run, event: str, seconds: float) -> None:
    """Has an event be written down at another time."""
    file = run.directory / journal.FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    moved = [line | {"t": line["t"] + seconds * (line["event"] == event)} for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in moved))
