"""The emulator of Compute Engine keeps the rules that the real one documents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import requests

from tests.emulators.gcp import Emulator, meter, refusals
from tests.emulators.until import until

_BASE = "projects/dayfly-test"
_ZONE = f"{_BASE}/zones/us-central1-a"
_DELETED = {"instanceTerminationAction": "DELETE"}


def _in_s(seconds: float) -> str:
    """A moment as RFC 3339 has it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


_FAR = _in_s(3600)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """Rows alone."""
    with Emulator(machines=False) as emulator:
        yield emulator


def _ask(cloud: Emulator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = requests.request(method, f"{cloud.url}/compute/v1/{path}", json=body, timeout=10)
    return answer.status_code, answer.json()


def _done(cloud: Emulator, answer: tuple[int, Any]) -> list[str]:
    """The codes of the errors with which an operation ends."""
    status, operation = answer
    assert status == 200, operation
    path = operation["selfLink"].partition("/compute/v1/")[2]
    _, ended = _ask(cloud, "POST", f"{path}/wait")
    assert ended["status"] == "DONE"
    return [each["code"] for each in ended.get("error", {}).get("errors", ())]


def _refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    return status, body["error"]["errors"][0]["reason"]


@pytest.fixture
def network(cloud: Emulator) -> Iterator[str]:
    """One, with a subnetwork."""
    path = f"{_BASE}/global/networks/net"
    assert _done(cloud, _ask(cloud, "POST", f"{_BASE}/global/networks", {"name": "net"})) == []
    body = {"name": "sub", "network": path, "ipCidrRange": "10.0.0.0/24"}
    subnetworks = f"{_BASE}/regions/us-central1/subnetworks"
    assert _done(cloud, _ask(cloud, "POST", subnetworks, body)) == []
    yield path
    for each in (f"{_ZONE}/instances/vm", f"{subnetworks}/sub", path):
        _ask(cloud, "DELETE", each)
        until(partial(_is_gone, cloud, each), timeout_s=10)
    assert cloud.rows() == {}


def _is_gone(cloud: Emulator, path: str) -> bool:
    return path not in cloud.rows()


def _instance(**changed: Any) -> dict[str, Any]:
    image = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
    return {
        "name": "vm",
        "labels": {"team": "a"},
        "machineType": f"{_ZONE}/machineTypes/e2-standard-4",
        "networkInterfaces": [
            {"subnetwork": f"{_BASE}/regions/us-central1/subnetworks/sub", "accessConfigs": [{}]}
        ],
        "disks": [{"autoDelete": True, "initializeParams": {"sourceImage": image}}],
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"name": "Upper"}, (400, "invalid")),
        ({"name": "a" * 64}, (400, "invalid")),
        ({"labels": {"Team": "a"}}, (400, "invalid")),
        ({"labels": {"team": "A b"}}, (400, "invalid")),
        ({"machineType": "e9-standard-1"}, (400, "invalid")),
        ({"machineType": "g2-standard-4"}, (400, "badRequest")),
        (
            {"networkInterfaces": [{"subnetwork": f"{_BASE}/regions/x/subnetworks/no"}]},
            (404, "notFound"),
        ),
        ({"networkInterfaces": []}, (400, "invalid")),
        ({"disks": []}, (400, "required")),
        ({"scheduling": {"maxRunDuration": {"seconds": "9"}}}, (400, "invalid")),
        ({"scheduling": {"terminationTime": _FAR}}, (400, "invalid")),
        ({"scheduling": {"terminationTime": "soon", **_DELETED}}, (400, "invalid")),
        ({"scheduling": {"terminationTime": "2020-01-01T00:00:00Z", **_DELETED}}, (400, "invalid")),
        (
            {"scheduling": {"terminationTime": _FAR, "maxRunDuration": {"seconds": 9}, **_DELETED}},
            (400, "invalid"),
        ),
        ({"scheduling": {"provisioningModel": "SPOT"}}, (400, "badRequest")),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    cloud: Emulator, network: str, changed: Any, refusal: tuple[int, str]
) -> None:
    """Names, labels, references, required fields, and what does not go together."""
    answer = _ask(cloud, "POST", f"{_ZONE}/instances", _instance(**changed))
    assert _refusal(answer) == refusal


def test_what_is_in_use_is_not_deleted(cloud: Emulator, network: str) -> None:
    """A network by its subnetwork, that by an instance, its disk by it; the instance takes its disk along."""
    assert _done(cloud, _ask(cloud, "POST", f"{_ZONE}/instances", _instance())) == []
    in_use = (400, "resourceInUseByAnotherResource")
    subnetwork = f"{_BASE}/regions/us-central1/subnetworks/sub"
    for path in (network, subnetwork, f"{_ZONE}/disks/vm"):
        assert _refusal(_ask(cloud, "DELETE", path)) == in_use, path
    again = _ask(cloud, "POST", f"{_ZONE}/instances", _instance())
    assert _refusal(again) == (409, "alreadyExists")
    assert _done(cloud, _ask(cloud, "DELETE", f"{_ZONE}/instances/vm")) == []
    assert set(cloud.rows()) == {network, subnetwork}
    assert _refusal(_ask(cloud, "DELETE", f"{_ZONE}/instances/vm")) == (404, "notFound")


@pytest.mark.parametrize("limit", ["maxRunDuration", "terminationTime"])
def test_its_own_clock_ends_an_instance(cloud: Emulator, network: str, limit: str) -> None:
    """With its disk, and nobody has asked for it; after a time that it runs, or at a moment."""
    before = len(cloud.events("time_is_up"))
    begun = time.monotonic()
    value = {"seconds": "1"} if limit == "maxRunDuration" else _in_s(2)
    scheduling = {limit: value, **_DELETED}
    body = _instance(scheduling=scheduling)
    assert _done(cloud, _ask(cloud, "POST", f"{_ZONE}/instances", body)) == []
    assert cloud.rows("instances")
    until(lambda: not cloud.rows("instances") and not cloud.rows("disks"), timeout_s=20)
    assert time.monotonic() - begun >= 1
    assert len(cloud.events("time_is_up")) == before + 1


def test_capacity_and_quota_are_refused_by_the_operation(cloud: Emulator, network: str) -> None:
    """With the codes that are documented, and nothing is left of it."""
    cloud.set(full=["e2-standard-4@us-central1-a"])
    answer = _ask(cloud, "POST", f"{_ZONE}/instances", _instance())
    assert _done(cloud, answer) == ["ZONE_RESOURCE_POOL_EXHAUSTED"]
    cloud.set(full=[], quotas={"GPUS_ALL_REGIONS": 0})
    body = _instance(
        machineType="g2-standard-4",
        scheduling={"onHostMaintenance": "TERMINATE"},
    )
    assert _done(cloud, _ask(cloud, "POST", f"{_ZONE}/instances", body)) == ["QUOTA_EXCEEDED"]
    cloud.set(quotas={})
    assert not cloud.rows("instances")
    assert not cloud.rows("disks")


_SPOT = {
    "provisioningModel": "SPOT",
    "automaticRestart": False,
    "onHostMaintenance": "TERMINATE",
}


@pytest.mark.parametrize(("action", "ends_as"), [("DELETE", ""), ("STOP", "TERMINATED")])
def test_one_that_is_taken_back_is_stopping_first(
    cloud: Emulator, network: str, action: str, ends_as: str
) -> None:
    """The record of it is there from the beginning; then its termination action says what is left."""
    cloud.set(preempt_s=0.5)
    scheduling = {**_SPOT, "instanceTerminationAction": action}
    body = _instance(scheduling=scheduling)
    assert _done(cloud, _ask(cloud, "POST", f"{_ZONE}/instances", body)) == []
    path = f"{_ZONE}/instances/vm"
    before = len(_preemptions(cloud))
    cloud.preempt(path)
    assert cloud.rows()[path]["status"] == "STOPPING"
    assert len(_preemptions(cloud)) == before + 1
    until(lambda: cloud.rows().get(path, {}).get("status", "") == ends_as, timeout_s=10)
    (bill,) = cloud.bills()[-1:]
    assert (bill.instance, bill.stopped is None) == (path, False)
    cloud.set(preempt_s=3.0)


def _preemptions(cloud: Emulator) -> list[Any]:
    filter = 'operationType = "compute.instances.preempted"'
    answer = requests.get(
        f"{cloud.url}/compute/v1/{_ZONE}/operations", params={"filter": filter}, timeout=10
    )
    return list(answer.json()["items"])


@pytest.mark.parametrize(
    ("lived_s", "billed_s"), [(0.4, 60), (59.9, 60), (60.0, 60), (60.2, 61), (3600.0, 3600)]
)
def test_the_meter_bills_by_the_second_and_for_a_minute_at_least(
    lived_s: float, billed_s: float
) -> None:
    """From when it runs until it has first stopped; at the prices of its own catalogue."""
    sold = {"type": "n1-standard-8", "zone": "us-central1-a", "disk_gb": 100}
    gpu = {"accelerator": "nvidia-tesla-t4", "count": 1}
    events: list[dict[str, Any]] = [
        {"event": "running", "at": 0.0, "instance": "a", "spot": False, **sold, **gpu},
        {"event": "running", "at": 0.0, "instance": "b", "spot": True, **sold, **gpu},
        {"event": "stopped", "at": lived_s, "instance": "a"},
        {"event": "stopped", "at": lived_s + 9, "instance": "a"},
    ]
    stopped, open_one = meter.bills(events, lived_s)
    assert (stopped.billed_s, open_one.billed_s) == (billed_s, billed_s)
    assert (stopped.stopped, open_one.stopped) == (lived_s, None)
    disk = 100 * 0.1 / 730
    of_parts = 8 * 0.031611 + 30 * 0.004237 + 0.35 + disk + 0.005
    assert stopped.usd == pytest.approx(of_parts * billed_s / 3600)
    of_parts = 8 * 0.00665 + 30 * 0.00089 + 0.14 + disk + 0.0025
    assert open_one.usd == pytest.approx(of_parts * billed_s / 3600)


@pytest.mark.parametrize("how", ["403 forbidden", "403 rateLimitExceeded", "429 rateLimitExceeded"])
def test_what_may_not_be_made_is_refused_in_the_answer(
    cloud: Emulator, network: str, how: str
) -> None:
    """With status and reason; what passes is told from what does not as the plugin does it."""
    cloud.set(denied={"instances": how})
    status, _, reason = how.partition(" ")
    answer = _ask(cloud, "POST", f"{_ZONE}/instances", _instance())
    cloud.set(denied={})
    assert _refusal(answer) == (int(status), reason)
    again = refusals.denied(how, "instances", f"{_ZONE}/instances/vm").is_tried_again
    assert again == (reason == "rateLimitExceeded")


def test_a_deletion_that_is_refused_has_begun_nothing(cloud: Emulator, network: str) -> None:
    """The next one ends it."""
    assert _done(cloud, _ask(cloud, "POST", f"{_ZONE}/instances", _instance())) == []
    path = f"{_ZONE}/instances/vm"
    cloud.set(held={"instances": 1})
    assert _refusal(_ask(cloud, "DELETE", path)) == (400, "resourceNotReady")
    assert cloud.rows()[path]["status"] == "RUNNING"
    assert _done(cloud, _ask(cloud, "DELETE", path)) == []
    assert path not in cloud.rows()
