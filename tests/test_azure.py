"""provider="azure" against its emulator, through Azure's own SDK: what it lists, ends, tells of a machine, and lets in."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError, ProvisionFailed
from dayfly.infra import azure_names, providers
from dayfly.infra.azure_api import AzureApi
from dayfly.infra.found import Found
from tests.azure_things import id_of, put, put_run, run
from tests.emulators.azure import Emulator, Options, rules
from tests.emulators.azure.faults import Fault

AZURE = providers.load("azure")


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator without machines, as the environment tells of it; its pages are short."""
    with Emulator(
        Options(machines=False, create_s=0, delete_s=0, group_delete_s=0, page_size=3)
    ) as it:
        for name, value in it.environment().items():
            monkeypatch.setenv(name, value)
        yield it


def _until(said: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not said():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_inventory_is_all_that_carries_the_owner_s_tag(azure: Emulator, tmp_path: Path) -> None:
    """Machine, disk, network, address and group, over several pages; of others only who asks for all."""
    mine, other = run(tmp_path), run(tmp_path, "somebody-else")
    put_run(azure.world, mine)
    put_run(azure.world, other)
    put(azure.world, "not-ours", "server", {"team": "web"})
    found = AZURE.inventory("me")
    assert {each.run for each in found} == {mine.id}
    kinds = sorted(each.kind for each in found)
    assert kinds == ["address", "group", "instance", "network", "network", "network"]
    (machine,) = [each for each in found if each.kind == "instance"]
    assert (machine.id, machine.state) == (f"dayfly-{mine.id}", "running")
    everybody = AZURE.inventory(None)
    assert {each.run for each in everybody} == {mine.id, other.id, ""}
    (stranger,) = [each for each in everybody if not each.tags]
    assert stranger.kind == "instance"
    assert stranger.id.endswith("/virtualMachines/server")


def test_ending_anything_of_a_run_ends_its_group(azure: Emulator, tmp_path: Path) -> None:
    """And nothing else; what is being deleted is listed as ending, and is not asked for again."""
    mine, other = run(tmp_path), run(tmp_path)
    put_run(azure.world, mine)
    put_run(azure.world, other)
    address = next(f for f in AZURE.inventory("me") if f.kind == "address" and f.run == mine.id)
    AZURE.terminate(address)
    _until(lambda: all(f.run == other.id for f in AZURE.inventory("me")))
    AZURE.terminate(address)
    AZURE.terminate(Found("instance", f"dayfly-{other.id}"))
    _until(lambda: azure.world.all() == [])
    assert AZURE.inventory(None) == []


def test_a_group_that_is_being_deleted_is_listed_as_ending(azure: Emulator, tmp_path: Path) -> None:
    """With all that is in it, so that a teardown only waits."""
    mine = run(tmp_path)
    put_run(azure.world, mine)
    azure.world.get(id_of(azure_names.group_of(mine))).state = "Deleting"
    assert {each.state for each in AZURE.inventory("me")} == {"stopping"}
    assert AZURE.instance_state(f"dayfly-{mine.id}") == "running"


def test_what_was_moved_to_a_foreign_group_ends_alone(azure: Emulator, tmp_path: Path) -> None:
    """The group of somebody else stays, whatever tags a thing in it carries."""
    mine = run(tmp_path)
    put(azure.world, "not-ours", "server", mine.tags)
    machine = next(each for each in AZURE.inventory("me") if each.kind == "instance")
    AZURE.terminate(machine)
    _until(lambda: not azure.world.live())
    left = [each for each in AZURE.inventory("me") if each.kind not in ("group", "address")]
    assert left
    for each in (*left, *left):
        # A network is in use as long as its interface is there, and is left for the next round.
        AZURE.terminate(each)
        time.sleep(0.05)
    assert id_of("not-ours") in [each.id.text for each in azure.world.all()]


def test_nobody_else_s_group_is_taken_for_a_run_s(tmp_path: Path) -> None:
    """By its name, and by the tag of what is in it."""
    mine = run(tmp_path)
    own = f"dayfly-{mine.id}"
    disk = id_of(own.upper(), "Compute/disks/d")
    assert azure_names.own_group_of(Found("disk", disk, mine.tags)) == own
    assert azure_names.own_group_of(Found("instance", f"{own}-3", mine.tags)) == own
    assert azure_names.own_group_of(Found("disk", disk, run(tmp_path).tags)) is None
    assert azure_names.own_group_of(Found("group", id_of("production"), mine.tags)) is None
    assert azure_names.own_group_of(Found("group", id_of(f"{own}-3"), mine.tags)) is None


def test_the_states_of_a_machine_are_told_in_the_standard_words(
    azure: Emulator, tmp_path: Path
) -> None:
    """Gone from a group that lives is ended by somebody, or taken back where Azure may do that."""
    mine, spot = run(tmp_path), run(tmp_path)
    assert AZURE.instance_state(f"dayfly-{mine.id}") == "unknown"
    thing, cheap = put_run(azure.world, mine), put_run(azure.world, spot, spot=True)
    for state, told in (
        ("Creating", "booting"),
        ("Updating", "running"),
        ("Succeeded", "running"),
        ("Failed", "unhealthy"),
        ("Deleting", "stopping"),
    ):
        thing.state = state
        assert AZURE.instance_state(f"dayfly-{mine.id}") == told
    azure.world.delete_by_hand(thing.id.text)
    assert AZURE.instance_state(f"dayfly-{mine.id}") == "terminated"
    assert AZURE.instance_state(f"dayfly-{spot.id}") == "running"
    azure.world.preempt(cheap.id.text)
    assert AZURE.instance_state(f"dayfly-{spot.id}") == "preempted"
    assert AZURE.address(f"dayfly-{spot.id}") is None
    AZURE.terminate(Found("instance", f"dayfly-{spot.id}"))
    _until(lambda: AZURE.instance_state(f"dayfly-{spot.id}") == "unknown")


def test_a_machine_that_is_failed_or_not_there_is_listed_with_its_group(
    azure: Emulator, tmp_path: Path
) -> None:
    """One that could not be allocated stays: it is unhealthy, and goes with its group."""
    mine = run(tmp_path)
    azure.fault("AllocationFailed", late=True)
    with pytest.raises(Exception, match="sufficient capacity"):
        put_run(azure.world, mine)
    states = {each.kind: each.state for each in AZURE.inventory("me")}
    assert (states["instance"], states["group"]) == ("unhealthy", "running")
    AZURE.terminate(next(each for each in AZURE.inventory("me") if each.kind == "group"))
    _until(lambda: azure.world.all() == [])


def test_the_address_is_the_public_one(azure: Emulator, tmp_path: Path) -> None:
    """As it is now."""
    mine = run(tmp_path)
    put_run(azure.world, mine)
    found = AZURE.address(f"dayfly-{mine.id}")
    assert found is not None
    assert found[0].startswith("198.51.100.")
    assert found[1] == 22


def test_a_client_that_has_moved_is_let_in_once(azure: Emulator, tmp_path: Path) -> None:
    """By a rule beside the first, in its own group alone."""
    mine = run(tmp_path)
    thing = put_run(azure.world, mine)
    assert not azure.world.lets_in(thing, "127.0.0.1")
    assert AZURE.admit(f"dayfly-{mine.id}").startswith("22/tcp from 127.0.0.1/32")
    assert azure.world.lets_in(thing, "127.0.0.1")
    assert azure.world.lets_in(thing, "203.0.113.9")
    assert AZURE.admit(f"dayfly-{mine.id}") == ""
    assert AZURE.admit(f"dayfly-{run(tmp_path).id}") == ""


def test_a_listing_that_is_refused_concludes_nothing(
    azure: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code, the kind, and what to do."""
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "11111111-2222-3333-4444-555555555555")
    with pytest.raises(
        ProvisionFailed, match=r"az account list.*\[code SubscriptionNotFound\]"
    ) as caught:
        AZURE.inventory("me")
    assert caught.value.kind == "auth"
    monkeypatch.setenv("IDENTITY_HEADER", "wrong")
    with pytest.raises(ProvisionFailed, match="code DayflyNoLogin") as caught:
        AZURE.inventory("me")
    assert caught.value.kind == "auth"
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID")
    with pytest.raises(ConfigurationError, match="AZURE_SUBSCRIPTION_ID is not set"):
        AZURE.inventory("me")


def test_too_many_requests_are_waited_for(azure: Emulator) -> None:
    """As long as the answer says, by the SDK itself."""
    azure.world.faults.throttle(2)
    assert AZURE.inventory("me") == []
    groups = [path for _, path in azure.requests if path.endswith("/resourcegroups")]
    assert len(groups) == 3


def test_a_group_that_cannot_be_deleted_is_told(azure: Emulator, tmp_path: Path) -> None:
    """A lock of somebody's is no success."""
    mine = run(tmp_path)
    put_run(azure.world, mine)
    azure.world.faults.add(Fault("delete", "", "ScopeLocked"))
    with pytest.raises(ProvisionFailed, match=r"take the lock off.*\[code ScopeLocked\]"):
        AZURE.terminate(Found("instance", f"dayfly-{mine.id}"))


def test_what_is_not_installed_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a computer that closes the runs of another one."""
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "99999999-2222-3333-4444-555555555555")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ConfigurationError, match=r'pip install "dayfly\[azure\]"'):
        AZURE.inventory("me")


def test_one_log_in_serves_a_whole_process(azure: Emulator) -> None:
    """A token is asked for once."""
    assert AzureApi.from_environment() is AzureApi.from_environment()
    AZURE.inventory("me")
    AZURE.inventory("me")
    assert azure.requests.count(("GET", "/msi/token")) == 1


def test_an_address_that_is_nowhere_is_a_connection_error(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is tried again by whoever asked."""
    monkeypatch.setenv("AZURE_TENANT_ID", "x")  # Another log-in, which nobody has yet.
    monkeypatch.setattr("dayfly.infra.azure_api._RETRIES", 0)
    monkeypatch.setenv("DAYFLY_AZURE_URL", "http://127.0.0.1:9")
    with pytest.raises(ProvisionFailed, match="code DayflyUnreachable") as caught:
        AZURE.inventory("me")
    assert caught.value.kind == "transient"


def test_a_log_in_that_nobody_answers_is_no_refusal(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a network: transient, and nothing says to log in again; the way out is a proxy that is not there."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID"):
        monkeypatch.setenv(name, "6f1d2c3b-0000-4a5e-9b7c-0123456789ab")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "x")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "prod")
    with pytest.raises(ProvisionFailed, match="code DayflyUnreachable") as caught:
        AZURE.inventory("me")
    assert caught.value.kind == "transient"
    assert "az login" not in str(caught.value)


def test_the_role_of_the_docs_allows_what_a_run_takes() -> None:
    """Each type is read, written and deleted; nothing gives rights to anybody, or runs a command on a machine."""
    role = json.loads((Path(__file__).parents[1] / "docs/policies/azure.json").read_text())
    actions = {action.lower() for action in role["Actions"]}
    for type in (*rules.NAMES, "microsoft.resources/subscriptions/resourcegroups"):
        assert {f"{type}/{act}" for act in ("read", "write", "delete")} <= actions, type
    assert not [
        each for each in actions if "*" in each or "authorization" in each or "runcommand" in each
    ]
