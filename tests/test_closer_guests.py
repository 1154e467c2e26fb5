"""A run on the machine of another is closed with that machine, unless it has been handed on."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dayfly.errors import LeakRisk
from dayfly.infra import providers
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.runtime import wording
from dayfly.stacks import intent, journal
from dayfly.stacks.closer import Closer
from dayfly.stacks.journal import History
from dayfly.stacks.standing import standing
from dayfly.stacks.workspace import Workspace
from tests.test_closer import Cloud, _forget_providers

SPEC = Spec(keep="10m")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A provider found by its file's name, with a machine of the host's."""
    (tmp_path / "testcloud.py").write_text("")
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(tmp_path)])
    module = ModuleType("dayfly.infra.providers.testcloud")
    module.__dict__["PROVIDER"] = provider = Cloud()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _forget_providers()
    yield provider
    monkeypatch.undo()
    _forget_providers()


@pytest.fixture
def host(workspace: Workspace, cloud: Cloud) -> History:
    """A run whose machine was kept."""
    run = intent.write(workspace, new_id(), SPEC, cloud.offers(SPEC)[0])
    journal.append(run.directory, "up_started")
    journal.append(run.directory, "launched", id="i-1", usd_per_hour=12.0)
    cloud.launch(run, "i-1")
    journal.append(run.directory, "kept", until=time.time() + 600)
    return journal.read(run.directory)


@pytest.fixture
def guest(workspace: Workspace, cloud: Cloud, host: History) -> Run:
    """The run that has taken it."""
    run_id, offer = new_id(), cloud.offers(SPEC)[0]
    journal.append(host.directory, "claimed", run=run_id, by=journal.myself())
    return intent.write(workspace, run_id, SPEC, offer, host=host)


def _closer(workspace: Workspace, cloud: Cloud) -> Closer:
    return Closer(workspace, None, now=cloud.now, sleep=cloud.sleep)


def test_it_has_the_keys_and_the_end_of_the_machine_and_its_own_seal(
    workspace: Workspace, host: History, guest: Run
) -> None:
    """The machine knows the host's key; what a guest's frames are sealed with nobody else has."""
    mine, theirs = workspace.directory(guest.id), host.directory
    assert (mine / "user_key").read_bytes() == (theirs / "user_key").read_bytes()
    assert (mine / "user_key").stat().st_mode & 0o777 == 0o600
    assert (mine / "hmac_key").read_bytes() != (theirs / "hmac_key").read_bytes()
    assert (guest.public_key, guest.deadline) == (host.intent["public_key"], host.deadline)
    assert not (mine / "host_key").exists()
    assert journal.read(mine).intent["worst_case_usd"] < host.intent["worst_case_usd"]


def test_a_machine_that_was_handed_on_outlives_it(
    workspace: Workspace, cloud: Cloud, host: History, guest: Run
) -> None:
    """Its receipt says whose the machine is, and nothing at the provider is touched."""
    journal.append(host.directory, "kept", until=time.time() + 600)
    receipt = _closer(workspace, cloud).close(guest.id)
    assert (cloud.terminated, receipt.machine_of, receipt.usd) == ([], host.id, 0.0)
    assert host.id[:12] in wording.receipt_line(receipt)
    assert not (workspace.directory(guest.id) / "user_key").exists()
    assert standing(journal.read(host.directory), time.time())[0] == "KEPT"


def test_a_machine_that_was_not_handed_on_ends_with_it(
    workspace: Workspace, cloud: Cloud, host: History, guest: Run
) -> None:
    """Both runs are closed; the host's receipt has the bill."""
    receipt = _closer(workspace, cloud).close(guest.id)
    assert cloud.terminated == ["i-1"]
    assert (receipt.left, receipt.usd, receipt.machine_of) == (0, 0.0, host.id)
    assert journal.read(host.directory).closed
    assert "that one has the bill" in wording.receipt_line(receipt)


def test_a_machine_that_another_run_has_now_is_left_to_that(
    workspace: Workspace, cloud: Cloud, host: History, guest: Run
) -> None:
    """The guest's client died between handing it on and its own end."""
    journal.append(host.directory, "kept", until=time.time() + 600)
    journal.append(host.directory, "claimed", run="c" * 32, by=journal.myself())
    assert _closer(workspace, cloud).close(guest.id).left == 0
    assert cloud.terminated == []


def test_what_cannot_be_proved_of_the_machine_keeps_both_open(
    workspace: Workspace, cloud: Cloud, host: History, guest: Run
) -> None:
    """However often it is tried: a guest is never signed for while its machine may live."""
    cloud.immortal = True
    for _ in range(2):
        with pytest.raises(LeakRisk, match=host.id):
            _closer(workspace, cloud).close(guest.id)
        assert not journal.read(host.directory).closed
        assert not journal.read(workspace.directory(guest.id)).closed
    cloud.immortal = False
    _closer(workspace, cloud).close(guest.id)
    assert journal.read(host.directory).closed


def test_a_machine_that_was_destroyed_before_is_no_trouble(
    workspace: Workspace, cloud: Cloud, host: History, guest: Run
) -> None:
    """By `dayfly cancel` of the host's own run, say."""
    _closer(workspace, cloud).close(host.id)
    assert _closer(workspace, cloud).close(guest.id).left == 0
    assert cloud.terminated == ["i-1"]


def test_a_machine_whose_journal_is_lost_is_ended_by_its_tag(
    workspace: Workspace, cloud: Cloud, host: History, guest: Run
) -> None:
    """Somebody has deleted its directory: nothing tells whether it was handed on."""
    shutil.rmtree(host.directory)
    assert _closer(workspace, cloud).close(guest.id).left == 0
    assert cloud.terminated == ["i-1"]
    assert journal.read(host.directory).closed
