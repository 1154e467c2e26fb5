"""The fault script does what it says, to the call that it names and to no other."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests.emulators.lambda_cloud import Emulator, Fault, Options
from tests.emulators.plain_client import Answer, Client

pytestmark = pytest.mark.process

PLAIN = Options(request_interval_s=0, launch_interval_s=0, machines=False, listing_lag_s=0)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    with Emulator(PLAIN) as running:
        Client(running).add_key()
        yield running


@pytest.fixture
def api(cloud: Emulator) -> Iterator[Client]:
    yield Client(cloud)
    cloud.clear_faults()


def launches(api: Client) -> int:
    """How many were accepted, by the ground truth."""
    return len(api.cloud.events("launch_accepted"))


def test_a_line_meets_the_call_that_it_names_and_no_other(api: Client) -> None:
    """The third listing from when the line was added."""
    api.get("/instances")
    api.cloud.add_faults([Fault("list_instances", "status", at=(3,), status=503)])
    statuses = [api.get("/instances").status for _ in range(4)]
    assert statuses == [200, 200, 503, 200]
    assert api.get("/regions").status == 200
    (line,) = api.cloud.faults()["faults"]
    assert (line["calls"], line["hits"]) == (4, 1)


def test_a_script_can_be_given_at_the_start() -> None:
    """And counts from there; a star stands for every operation."""
    script = (Fault("*", "status", at=(2,), status=500), Fault("list_regions", "empty", at=(2,)))
    with Emulator(Options(machines=False, request_interval_s=0, faults=script)) as cloud:
        api = Client(cloud)
        assert [api.get(path).status for path in ("/regions", "/images")] == [200, 500]
        assert api.get("/regions").json == {}


def test_dropped_before_nothing_happened(api: Client) -> None:
    """The client gets no answer, and there is no machine."""
    before = launches(api)
    api.cloud.add_faults([{"op": "launch", "kind": "drop_before", "at": 1}])
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        api.launch()
    assert launches(api) == before


def test_dropped_after_there_is_a_machine_that_nobody_knows_of(api: Client) -> None:
    """The worst of all: an accepted launch without an answer."""
    before = launches(api)
    api.cloud.add_faults([{"op": "launch", "kind": "drop_after", "at": 1}])
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        api.launch(name="lost")
    assert launches(api) == before + 1
    assert "lost" in [row.get("name") for row in api.get("/instances").data]


def test_a_duplicate_makes_two_and_answers_with_one(api: Client) -> None:
    """As a proxy that repeats a request would; of SSH keys there are then two of a name, which no launch can use."""
    before = launches(api)
    api.cloud.add_faults([Fault("launch", "duplicate"), Fault("add_ssh_key", "duplicate")])
    assert len(api.launch().data["instance_ids"]) == 1
    assert launches(api) == before + 2
    api.add_key("twice")
    assert [key["name"] for key in api.get("/ssh-keys").data].count("twice") == 2
    api.cloud.clear_faults()
    assert api.launch(ssh_key_names=["twice"]).refused == (500, "global/unknown")


@pytest.mark.parametrize("kind", ["truncate", "not_json", "empty"])
def test_an_answer_can_be_spoilt_after_the_call_has_acted(api: Client, kind: str) -> None:
    """Half of a body, a page of HTML, or an empty object."""
    before = launches(api)
    api.cloud.add_faults([{"op": "launch", "kind": kind, "at": 1}])
    if kind == "truncate":
        with pytest.raises(http.client.IncompleteRead):
            api.launch()
    else:
        answer = api.launch()
        assert answer.status == 200
        assert answer.content.startswith(b"<!DOCTYPE html>" if kind == "not_json" else b"{}")
    assert launches(api) == before + 1


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_says_nothing_about_what_was_done(api: Client, status: int, acts: bool) -> None:
    """It comes with the documented code of a provider's fault."""
    before = launches(api)
    api.cloud.add_faults([Fault("launch", "status", at=(1,), status=status, acts=acts)])
    assert api.launch().refused == (status, "provider/internal-unavailable")
    assert launches(api) == before + acts


def test_a_429_may_say_when_to_come_back(api: Client) -> None:
    """Without a JSON body, since none is described."""
    api.cloud.add_faults(
        [
            Fault("list_regions", "status", at=(1,), status=429, retry_after_s=7),
            Fault("list_regions", "status", at=(2,), status=429),
        ]
    )
    first, second = api.get("/regions"), api.get("/regions")
    assert (first.status, first.headers["Retry-After"]) == (429, "7")
    assert (second.status, "Retry-After" in second.headers) == (429, False)
    with pytest.raises(json.JSONDecodeError):
        assert second.json


def test_a_slow_answer_comes_whole(api: Client) -> None:
    """Byte by byte, so that a bound on each read alone never ends it."""
    api.cloud.add_faults([Fault("launch", "trickle", delay_s=0.005)])
    assert len(api.launch().data["instance_ids"]) == 1


class Late:
    """A call in a thread of its own."""

    def __init__(self, api: Client) -> None:
        self.answers: list[Answer] = []
        self._thread = threading.Thread(target=lambda: self.answers.append(api.launch()))
        self._thread.start()

    def wait(self) -> Answer:
        """Its answer."""
        self._thread.join(20)
        return self.answers[0]


@pytest.mark.parametrize(("kind", "acted"), [("hold", 0), ("hold_answer", 1)])
def test_a_call_can_be_held_before_or_after_it_acts(api: Client, kind: str, acted: int) -> None:
    """Until it is let go: the moments at which a client is killed."""
    before = launches(api)
    api.cloud.add_faults([{"op": "launch", "kind": kind, "at": 1}])
    call = Late(api)
    api.cloud.wait_held()
    assert (call.answers, launches(api)) == ([], before + acted)
    assert api.get("/regions").status == 200
    api.cloud.release()
    assert call.wait().status == 200
    assert launches(api) == before + 1


def test_a_held_call_may_never_act(api: Client) -> None:
    """As of a client that was killed when the request was on record, and before it was sent."""
    before = launches(api)
    api.cloud.add_faults([{"op": "launch", "kind": "hold_drop", "at": 1}])
    call = threading.Thread(target=_lost_launch, args=(api,))
    call.start()
    api.cloud.wait_held()
    assert launches(api) == before
    api.cloud.release()
    call.join(20)
    assert not call.is_alive()
    assert launches(api) == before


@pytest.mark.parametrize("kind", ["delay", "delay_answer"])
def test_a_delayed_call_acts_although_its_client_is_gone(api: Client, kind: str) -> None:
    """The late create: it appears after everyone has looked."""
    before = launches(api)
    api.cloud.add_faults([{"op": "launch", "kind": kind, "at": 1, "delay_s": 0.3}])
    call = Late(api)
    if kind == "delay":
        assert launches(api) == before
    call.wait()
    assert launches(api) == before + 1


def test_a_rate_hits_a_part_of_the_calls_and_is_repeatable(api: Client) -> None:
    """By its seed."""
    rounds = []
    for _ in range(2):
        api.cloud.add_faults([Fault("list_regions", "status", rate=0.3, seed=7, status=502)])
        rounds.append([api.get("/regions").status for _ in range(60)])
        api.cloud.clear_faults()
    assert rounds[0] == rounds[1]
    assert 5 < rounds[0].count(502) < 35


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"op": "launch", "kind": "explode"}, "explode"),
        ({"op": "lunch", "kind": "drop_after"}, "lunch"),
        ({"op": "launch"}, "kind"),
        ({"op": "launch", "kind": "status", "status": 404}, "404"),
        ({"op": "launch", "kind": "delay", "when": 1}, "when"),
        ({"op": "launch", "kind": "delay", "at": 1, "rate": 0.1}, "rate"),
    ],
)
def test_a_line_that_is_not_understood_is_refused(
    api: Client, line: dict[str, object], says: str
) -> None:
    """By name: a fault that never comes would prove nothing."""
    with pytest.raises(ValueError, match=says):
        api.cloud.add_faults([line])


def test_a_new_world_knows_nothing_of_the_old_one(api: Client) -> None:
    """Not even of a launch that was held there; the key stays, options may change."""
    cloud = api.cloud
    cloud.add_faults([{"op": "launch", "kind": "hold", "at": 1}])
    held = threading.Thread(target=_lost_launch, args=(api,))
    held.start()
    cloud.wait_held()
    old = api.launched()
    cloud.renew(Options(machines=False, request_interval_s=0, launch_interval_s=0, quota=1))
    held.join(20)
    assert not held.is_alive()
    assert api.get("/ssh-keys").data == []
    assert api.get(f"/instances/{old}").status == 404
    assert cloud.meter() == {"dollars": 0, "bills": []}
    assert [each["event"] for each in cloud.events()] == ["started"]
    api.add_key()
    api.launched()
    assert api.launch().refused == (400, "global/quota-exceeded")
    with pytest.raises(ValueError, match="lunch"):
        cloud.renew(Options(faults=(Fault("lunch", "empty"),)))
    cloud.renew(PLAIN)
    api.add_key()


def _lost_launch(api: Client) -> None:
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        api.launch()


def test_faults_are_in_the_ground_truth(api: Client) -> None:
    """With the operation that they met."""
    api.cloud.add_faults([Fault("list_images", "empty", at=(1,))])
    before = time.time()
    api.get("/images")
    met = api.cloud.events("fault")[-1]
    assert (met["op"], met["kind"]) == ("list_images", "empty")
    assert before - 1 < met["at"] < time.time() + 1
