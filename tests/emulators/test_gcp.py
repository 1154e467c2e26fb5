"""The emulator of Compute Engine keeps the rules that the real one documents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import requests

from tests.emulators.gcp import Emulator
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
