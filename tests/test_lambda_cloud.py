"""provider="lambda" against the emulator: its resources, what it finds by tag and name, and that it ends all of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import ConfigurationError
from dayfly.infra import creations, fence, providers, run_names
from dayfly.infra.fence import FenceShut
from dayfly.infra.found import Found
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_errors import ApiError, MaybeCreated, is_without_firewall
from dayfly.infra.lambda_records import Ruleset
from dayfly.infra.lambda_resources import (
    InstanceProvider,
    KeyProvider,
    ReadyProvider,
    RulesetProvider,
)
from dayfly.infra.lambda_rules import lets_in, ssh_rule
from dayfly.infra.lambda_wait import Waiting
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks.intent import make_key
from tests.emulators.lambda_cloud.emulator import Emulator
from tests.emulators.lambda_cloud.options import Options

pytestmark = pytest.mark.process

PROVIDER = providers.load("lambda")
_SCALE = 50.0


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """One emulator for this file; its machines are rows only, and its time goes fifty times as fast."""
    options = Options(
        machines=False,
        time_scale=_SCALE,
        request_interval_s=0,
        launch_interval_s=0,
        listing_lag_s=0,
        boot_s=5,
        ip_s=10,
        terminating_s=10,
        linger_s=3600,
    )
    with Emulator(options) as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def there(cloud: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment tells of it; no machine and no fault is left for the next test."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    yield
    cloud.clear_faults()
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    while left := PROVIDER.inventory("me"):
        for found in left:
            PROVIDER.terminate(found)
    assert cloud.live() == []


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One run, as far as its directory."""
    public, now = make_key(tmp_path / "user_key"), time.time()
    host_key = make_key(tmp_path / "host_key")
    return Run(new_id(), "me", now, now + 3600, tmp_path, public, host_key)


def props(run: Run, **inputs: Any) -> dict[str, Any]:
    """The inputs of a resource."""
    identity = {
        "run": run.id,
        "owner": run.owner,
        "deadline": run.deadline,
        "directory": str(run.directory),
    }
    return {**identity, "name": run_names.of(run), "region": "us-east-1", **inputs}


def instance_props(run: Run, **inputs: Any) -> dict[str, Any]:
    """The inputs of a machine; its key is put into the account."""
    key = KeyProvider().create(props(run, public_key=f"{run.public_key} {run.owner}"))
    assert key.outs["name"] == run_names.of(run)
    given = {
        "instance_type": "cpu_4x_general",
        "ssh_key": run_names.of(run),
        "tags": run.tags,
        "rulesets": [],
        "file_systems": [],
        "user_data": "#cloud-config\n# secret host key\n",
    }
    return props(run, **given | inputs)


def kinds() -> list[str]:
    """What the inventory shows of this owner."""
    return sorted(found.kind for found in PROVIDER.inventory("me"))


def test_the_whole_life_of_a_run_s_resources(run: Run, cloud: Emulator) -> None:
    """Made in order, found by tag and name, ended in reverse, and nothing secret among the outputs."""
    rules = RulesetProvider().create(props(run, allow_cidr="203.0.113.7/32"))
    assert rules.outs["allowed"] == "22/tcp from 203.0.113.7/32 (allow_cidr)"
    made = InstanceProvider().create(instance_props(run, rulesets=[rules.id]))
    assert PROVIDER.instance_state(made.id) in ("booting", "running")
    (row,) = cloud.live()
    assert row["firewall_rulesets"] == [{"id": rules.id}]
    assert row["ssh_key_names"] == [run_names.of(run)]
    assert "secret" not in str(made.outs) + str(rules.outs)
    found = {each.kind: each for each in PROVIDER.inventory("me")}
    assert sorted(found) == ["instance", "key", "network"]
    assert {each.run for each in found.values()} == {run.id}
    assert {each.tags["dayfly-deadline"] for each in found.values()} == {str(int(run.deadline))}
    assert list(PROVIDER.inventory("somebody-else")) == []
    everything = PROVIDER.inventory(None)
    assert {(each.kind, each.tags["dayfly-owner"], each.run) for each in everything} == {
        (kind, "me", run.id) for kind in found
    }
    InstanceProvider().delete(made.id, made.outs)
    assert PROVIDER.instance_state(made.id) == "terminated"
    RulesetProvider().delete(rules.id, rules.outs)
    KeyProvider().delete(found["key"].id, props(run))
    assert kinds() == []
    assert {c.outcome for c in creations.read(run.directory)} == {"deleted"}


def test_a_machine_whose_end_was_asked_for_is_only_looked_at(run: Run, cloud: Emulator) -> None:
    """Each request takes its turn of a second, and whoever closes the run has asked already."""
    made = InstanceProvider().create(instance_props(run))
    PROVIDER.terminate(Found("instance", made.id))
    asked = cloud.health()["calls"]["terminate"]
    InstanceProvider().delete(made.id, made.outs)
    assert cloud.health()["calls"]["terminate"] == asked
    assert PROVIDER.instance_state(made.id) == "terminated"


def test_the_same_inputs_change_nothing(run: Run) -> None:
    """A second `up` leaves the machine alone, although the user data is no output."""
    given = instance_props(run)
    made = InstanceProvider().create(given)
    assert not InstanceProvider().diff(made.id, made.outs, given).changes
    other = {**given, "region": "us-west-1"}
    assert list(InstanceProvider().diff(made.id, made.outs, other).replaces) == ["region"]


def test_a_rule_that_cannot_be_read_lets_nobody_in() -> None:
    """And raises nothing: who asks follows a function that runs."""
    good = ssh_rule("203.0.113.0/24", "ours")
    odd: list[dict[str, Any]] = [
        {"protocol": "icmp", "source_network": "0.0.0.0/0", "description": "ping"},
        {**good, "source_network": "2001:db8::/32"},
        {**good, "port_range": [80, 443]},
        {**good, "port_range": None},
        {"description": "of a later version"},
    ]
    assert not lets_in(Ruleset("1", "n", rules=tuple(odd)), "203.0.113.7/32")
    assert lets_in(Ruleset("1", "n", rules=(*odd, good)), "203.0.113.7/32")


def test_a_computer_that_has_moved_is_let_in_by_the_run_s_own_ruleset(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside whom it was made for, once, and by nothing that is not ours; where nobody knows the address nothing is opened."""
    rules = RulesetProvider().create(props(run, allow_cidr="203.0.113.7/32"))
    api = LambdaApi.from_environment()
    theirs = api.add_ruleset("somebody-else's", "us-east-1", [ssh_rule("203.0.113.8/32", "theirs")])
    made = InstanceProvider().create(instance_props(run, rulesets=[rules.id, theirs]))
    assert PROVIDER.admit(made.id) == "22/tcp from 127.0.0.1/32 (this computer's own address)"
    assert PROVIDER.admit(made.id) == ""
    found = {each.id: each for each in api.rulesets()}
    networks = [rule["source_network"] for rule in found[rules.id].rules]
    assert networks == ["203.0.113.7/32", "127.0.0.1/32"]
    assert found[rules.id].description == "SSH for me"
    assert [rule["source_network"] for rule in found[theirs].rules] == ["203.0.113.8/32"]
    assert kinds() == ["instance", "key", "network"]
    api.set_rules(rules.id, [ssh_rule("127.0.0.0/8", "wide")])
    assert PROVIDER.admit(made.id) == ""
    api.set_rules(rules.id, [ssh_rule("203.0.113.7/32", "SSH for me")])
    monkeypatch.setattr("dayfly.infra.caller.own", lambda url: None)
    assert PROVIDER.admit(made.id) == ""
    InstanceProvider().delete(made.id, made.outs)
    RulesetProvider().delete(rules.id, rules.outs)
    api.delete_ruleset(theirs)


def test_a_region_without_rulesets_goes_without_and_says_so(run: Run) -> None:
    """There is nothing to delete afterwards."""
    made = RulesetProvider().create(props(run, region="us-south-1"))
    assert made.outs["ruleset"] == ""
    assert "us-south-1 has no firewall rulesets" in made.outs["allowed"]
    RulesetProvider().delete(made.id, made.outs)
    assert kinds() == []


def test_where_a_policy_denies_the_public_a_ruleset_lets_in_nobody_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its process is told of no policy but by its inputs; one that stands stays when the policy comes."""
    made = RulesetProvider().create(props(run))
    same = {name: made.outs[name] for name in ("run", "name", "region")}
    assert not RulesetProvider().diff(made.id, made.outs, same | {"private": True}).changes
    assert RulesetProvider().diff(made.id, made.outs, same | {"region": "us-west-1"}).changes
    RulesetProvider().delete(made.id, made.outs)
    other = replace(run, id=new_id())
    with pytest.raises(ConfigurationError, match="us-south-1 has no firewall rulesets"):
        RulesetProvider().create(props(other, region="us-south-1", private=True))
    monkeypatch.setattr("dayfly.infra.caller.own", lambda url: None)
    with pytest.raises(ConfigurationError, match="set allow_cidr"):
        RulesetProvider().create(props(other, private=True))
    assert kinds() == []


def test_a_ruleset_that_is_refused_for_itself_is_no_region_without(run: Run) -> None:
    """The run would go on with port 22 open to all: it fails, in the API's words."""
    for wrong, words in (({"name": "n" * 65}, "name"), ({"region": "us-nowhere-1"}, "Unknown")):
        with pytest.raises(ApiError, match=words) as refused:
            RulesetProvider().create(props(replace(run, id=new_id()), **wrong))
        assert refused.value.code == "global/invalid-parameters"
    assert kinds() == []


def test_another_region_may_say_that_it_has_no_rulesets() -> None:
    """Nobody has listed them all; other words under the same code say nothing of that."""

    def refused(message: str) -> ApiError:
        return ApiError("adding", "global/invalid-parameters", message)

    assert is_without_firewall(refused("Rulesets are not supported in me-west-1"), "me-west-1")
    assert not is_without_firewall(refused("protocol: not supported"), "me-west-1")
    assert not is_without_firewall(refused("Invalid request data."), "me-west-1")
    assert is_without_firewall(refused("Invalid request data."), "us-south-1")


def test_a_key_that_was_stored_twice_is_one_again(run: Run, cloud: Emulator) -> None:
    """Two of one name make every launch fail without a reason."""
    cloud.add_faults([{"op": "add_ssh_key", "at": 1, "kind": "duplicate"}])
    InstanceProvider().create(instance_props(run))
    assert kinds() == ["instance", "key"]


@pytest.mark.parametrize("kind", ["drop_after", "truncate", "not_json", "empty"])
def test_a_launch_whose_answer_is_lost_is_adopted(run: Run, cloud: Emulator, kind: str) -> None:
    """By its tag: one request, one machine."""
    given = instance_props(run)
    before = cloud.health()["calls"].get("launch", 0)
    cloud.add_faults([{"op": "launch", "at": 1, "kind": kind}])
    made = InstanceProvider().create(given)
    assert [row["id"] for row in cloud.live() if row["status"] != "terminating"] == [made.id]
    assert cloud.health()["calls"]["launch"] == before + 1


def test_a_launch_that_never_arrived_is_a_maybe(run: Run, cloud: Emulator) -> None:
    """The record says that it is open, for whoever closes the run."""
    given = instance_props(run)
    cloud.add_faults([{"op": "launch", "at": 1, "kind": "drop_before"}])
    with pytest.raises(MaybeCreated):
        InstanceProvider().create(given)
    assert [c.outcome for c in creations.read(run.directory)] == ["answered", "open"]


def test_nothing_is_created_behind_a_shut_fence(run: Run, cloud: Emulator) -> None:
    """Not even asked for."""
    given = instance_props(run)
    before = cloud.health()["calls"].get("launch", 0)
    fence.shut(run.directory)
    for resource in (InstanceProvider(), RulesetProvider(), ReadyProvider()):
        with pytest.raises(FenceShut):
            resource.create({**given, "instance": "i-1"})
    assert cloud.health()["calls"].get("launch", 0) == before


def test_a_twin_of_the_machine_is_ended_while_it_is_waited_for(
    run: Run, cloud: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some launches are carried out twice; nobody listens where this machine is, so that the wait runs out."""
    given = instance_props(run)
    cloud.add_faults([{"op": "launch", "at": 1, "kind": "duplicate"}])
    made = InstanceProvider().create(given)
    assert len(cloud.live()) == 2
    ports = tmp_path / "ports.json"
    ports.write_text(json.dumps({made.id: {"host": "127.0.0.1", "port": 1}}))
    monkeypatch.setenv("DAYFLY_SSH_PORT_MAP", str(ports))
    waiting = Waiting(
        LambdaApi.from_environment(), scale=_SCALE, record=partial(creations.twins, run.directory)
    )
    with pytest.raises(ApiError, match=r"not ready after.*refused.*allow_cidr"):
        waiting.until_ready(made.id, run.id, timeout_s=120)
    alive = [row["id"] for row in cloud.live() if row["status"] != "terminating"]
    assert alive == [made.id]
    # Both are on record, so that both are billed: the twin from the launch until its end was seen.
    own, twin = (c for c in creations.read(run.directory) if c.kind == "instance")
    assert (own.id, own.outcome, own.twin) == (made.id, "answered", False)
    assert (twin.outcome, twin.twin, twin.begun) == ("deleted", True, own.begun)
    (bill,) = (each for each in cloud.meter()["bills"] if each["instance"] == twin.id)
    assert twin.begun <= bill["launched"]
    assert twin.ended >= bill["ended"]


def test_a_machine_is_not_ready_before_the_end_of_its_twin_was_seen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its twin would be billed until the run's own end; but it costs money itself, and does not wait for long."""
    made = InstanceProvider().create(instance_props(run))
    monkeypatch.setattr("dayfly.infra.lambda_wait.banner", lambda *_: "SSH-2.0-door")
    looks = list[bool]()

    def record(listed: Mapping[str, bool], ending: int) -> bool:
        looks.append(bool(listed.get(made.id)))
        return len(looks) < ending

    api = LambdaApi.from_environment()
    for ending in (9, 10**9):
        looks.clear()
        began = time.monotonic()
        waiting = Waiting(api, scale=_SCALE, record=partial(record, ending=ending))
        assert waiting.until_ready(made.id, run.id).id == made.id
        waited_s = (time.monotonic() - began) * _SCALE
        assert len(looks) == ending if ending < 10 else waited_s >= 60


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [("unhealthy", "dayfly/unhealthy", "transient"), ("preempted", "dayfly/preempted", "capacity")],
)
def test_a_machine_that_goes_wrong_while_it_is_waited_for_fails_with_its_kind(
    run: Run, cloud: Emulator, status: str, code: str, kind: str
) -> None:
    """Not at the end of the wait."""
    made = InstanceProvider().create(instance_props(run))
    cloud.mark(made.id, status)
    with pytest.raises(ApiError) as failed:
        ReadyProvider().create(props(run, instance=made.id))
    assert (failed.value.code, PROVIDER.failure(str(failed.value))) == (code, kind)


def test_a_machine_that_somebody_ends_is_not_waited_for(run: Run) -> None:
    """In the console, say."""
    made = InstanceProvider().create(instance_props(run))
    LambdaApi.from_environment().terminate(made.id)
    with pytest.raises(ApiError, match=r"ending it|ended it"):
        ReadyProvider().create(props(run, instance=made.id))


def test_a_machine_that_is_not_seen_yet_is_ended_all_the_same(tmp_path: Path, run: Run) -> None:
    """ "There is none" says nothing while the API may not show what was just made."""
    options = Options(
        machines=False,
        time_scale=20,
        request_interval_s=0,
        launch_interval_s=0,
        listing_lag_s=20,
        get_lag_s=20,
    )
    with Emulator(options) as slow, pytest.MonkeyPatch.context() as patch:
        for name, value in slow.environment().items():
            patch.setenv(name, value)
        made = InstanceProvider().create(instance_props(run))
        InstanceProvider().delete(made.id, made.outs)
        assert slow.live() == []
        assert [row["ended"] for row in slow.meter()["bills"]] != [None]


def test_a_twin_that_is_listed_late_does_not_hold_the_teardown_up(tmp_path: Path, run: Run) -> None:
    """It holds the ruleset: it is ended as soon as a listing shows it, by whoever waits for that."""
    options = Options(
        machines=False,
        time_scale=20,
        request_interval_s=0,
        launch_interval_s=0,
        listing_lag_s=55,
    )
    with Emulator(options) as slow, pytest.MonkeyPatch.context() as patch:
        for name, value in slow.environment().items():
            patch.setenv(name, value)
        rules = RulesetProvider().create(props(run, allow_cidr="203.0.113.7/32"))
        given = instance_props(run, rulesets=[rules.id])
        slow.add_faults([{"op": "launch", "at": 1, "kind": "duplicate"}])
        made = InstanceProvider().create(given)
        InstanceProvider().delete(made.id, made.outs)
        assert len(slow.live()) == 1
        RulesetProvider().delete(rules.id, rules.outs)
        assert slow.live() == []


def test_a_twin_is_ended_while_its_machine_ends(run: Run, cloud: Emulator) -> None:
    """Where no ruleset would hold anybody up."""
    given = instance_props(run)
    cloud.add_faults([{"op": "launch", "at": 1, "kind": "duplicate"}])
    made = InstanceProvider().create(given)
    assert len(cloud.live()) == 2
    InstanceProvider().delete(made.id, made.outs)
    assert [row for row in cloud.live() if row["status"] != "terminating"] == []


def test_what_is_not_ours_is_listed_without_tags_or_not_at_all(run: Run, cloud: Emulator) -> None:
    """A machine of somebody's counts as untagged; a key that names another owner than its digest does is nobody's."""
    api = LambdaApi.from_environment()
    ids = [api.add_ssh_key("laptop", run.public_key)]
    ids.append(api.add_ssh_key(run_names.of(run), f"{run.public_key} somebody-else"))
    given = instance_props(replace(run, id=new_id()), tags={"team": "vision"})
    made = InstanceProvider().create(given)
    found = {each.id: each for each in PROVIDER.inventory(None)}
    assert (found[made.id].run, found[made.id].tags) == ("", {})
    assert ids[0] not in found
    assert (found[ids[1]].run, found[ids[1]].tags["dayfly-owner"]) == (run.id, "")
    InstanceProvider().delete(made.id, made.outs)
    api.delete_ssh_key(ids[0])


def test_an_address_is_the_one_of_the_moment(run: Run) -> None:
    """None while there is none."""
    made = InstanceProvider().create(instance_props(run))
    assert PROVIDER.address(made.id) is None
    while (address := PROVIDER.address(made.id)) is None:
        time.sleep(0.02)
    assert address[1] == 22
    assert PROVIDER.address("no-such-instance") is None


def test_a_ruleset_in_use_is_come_back_to(run: Run) -> None:
    """Ending it fails quietly while its machine lives, since the inventory goes on showing it."""
    rules = RulesetProvider().create(props(run))
    made = InstanceProvider().create(instance_props(run, rulesets=[rules.id]))
    PROVIDER.terminate(Found("network", rules.id))
    assert "network" in kinds()
    InstanceProvider().delete(made.id, made.outs)
    PROVIDER.terminate(Found("network", rules.id))
    assert "network" not in kinds()


def test_file_systems_are_mounted_and_stay(run: Run, cloud: Emulator) -> None:
    """Their names go with the launch."""
    import requests

    requests.post(
        f"{cloud.url}/filesystems",
        json={"name": "data", "region": "us-east-1"},
        headers={"Authorization": f"Bearer {cloud.api_key}"},
        timeout=10,
    ).raise_for_status()
    spec = Spec(provider="lambda", instance_type="cpu_4x_general", file_systems=["data"])
    assert [offer.region for offer in PROVIDER.offers(spec)] == ["us-east-1"]
    made = InstanceProvider().create(instance_props(run, file_systems=["data"]))
    (row,) = [row for row in cloud.live() if row["id"] == made.id]
    assert row["file_system_names"] == ["data"]
    InstanceProvider().delete(made.id, made.outs)
    assert [each.name for each in LambdaApi.from_environment().file_systems()] == ["data"]


def test_offers_are_live_with_a_key_and_from_the_catalog_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that is wrong is no reason to guess."""
    spec = Spec(provider="lambda", instance_type="gpu_1x_a100")
    assert {offer.source for offer in PROVIDER.offers(spec)} == {"Lambda Cloud API"}
    monkeypatch.setenv("LAMBDA_API_KEY", "wrong")
    with pytest.raises(ApiError, match="invalid-api-key"):
        PROVIDER.offers(spec)
    monkeypatch.delenv("LAMBDA_API_KEY")
    assert [offer.region for offer in PROVIDER.offers(spec)] == ["any"]
    with pytest.raises(ConfigurationError, match="LAMBDA_API_KEY"):
        PROVIDER.offers(Spec(provider="lambda", file_systems=["data"]))


def test_preflight_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key, or an override that cannot be."""
    assert list(PROVIDER.preflight()) == []
    monkeypatch.setenv("LAMBDA_API_URL", "http://cloud.lambda.ai")
    assert "https" in PROVIDER.preflight()[0]
    monkeypatch.delenv("LAMBDA_API_URL")
    monkeypatch.delenv("LAMBDA_TIME_SCALE")
    monkeypatch.delenv("LAMBDA_API_KEY")
    assert "https://cloud.lambda.ai/api-keys" in PROVIDER.preflight()[0]


# As the engine prints them; recorded from failed runs against the emulator.
_RECORDED = [
    (
        "error: update failed\nerror: Exception calling application: Lambda Cloud, launching gpu_1x_a10 in us-west-1: Not"
        " enough capacity to fulfill launch request. This instance type is available in: us-south-1."
        " [code instance-operations/launch/insufficient-capacity]",
        "capacity",
        ("us-south-1",),
    ),
    (
        "+  pulumi-python:dynamic/dayfly:LambdaKey key **creating failed** error: Exception calling application: Lambda"
        " Cloud, adding SSH key dayfly-x: API key was invalid, expired, or deleted. Check your API key or create a new"
        " one, then try again. Fix: make a new key at https://cloud.lambda.ai/api-keys. [code global/invalid-api-key]",
        "auth",
        (),
    ),
    (
        "error: Exception calling application: Lambda Cloud, launching gpu_1x_a10 in us-west-1: Quota exceeded. Contact"
        " Support to increase your quota. [code global/quota-exceeded]",
        "quota",
        (),
    ),
    ("error: could not connect to us-west-1", "unknown", ()),
]


@pytest.mark.parametrize(("text", "kind", "regions"), _RECORDED)
def test_a_failure_is_told_apart_by_the_code_in_the_engine_s_words(
    text: str, kind: str, regions: tuple[str, ...]
) -> None:
    """And regions are only taken from a refusal for want of capacity."""
    assert PROVIDER.failure(text) == kind
    assert tuple(PROVIDER.regions_named(text)) == regions


def test_names_fit_and_tell_whose_and_until_when(run: Run) -> None:
    """The API takes 64 characters; a name is all that a key has."""
    name = run_names.of(run)
    assert len(name) <= 64
    assert name.startswith(f"dayfly-{run.id}-")
    assert name.endswith(f"-{int(run.deadline)}")


def test_limits_follow_the_emulator_s_time() -> None:
    """The billing increment too, so that bills are as fine as they are; a second costs what it costs."""
    limits = PROVIDER.limits
    assert (limits.listing_lag_s, limits.late_create_s) == (60 / _SCALE, 600 / _SCALE)
    assert limits.billing_increment_s == 60 / _SCALE
    assert os.environ["LAMBDA_TIME_SCALE"] == str(_SCALE)
