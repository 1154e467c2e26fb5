"""What `dayfly cost` says against the dollar meter of the emulated Lambda Cloud: many runs of minutes and of hours, at many rates.

Each run within one billing increment and never under the meter, all together within half a percent; those whose launch was never
answered are listed. The hours in which functions run pass at once, here and there; requests, looks and the ends of machines
take the time that they take.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from dayfly.infra import creations, lambda_offers
from dayfly.infra.lambda_api import LambdaApi
from dayfly.infra.lambda_errors import Unanswered
from dayfly.infra.lambda_records import Launch
from dayfly.infra.lambda_resources import InstanceProvider
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import intent, journal
from dayfly.stacks.closer import Closer
from dayfly.stacks.workspace import Workspace
from tests.emulators.lambda_cloud import Emulator, Options
from tests.emulators.plain_client import public_key
from tests.test_cli import dayfly

pytestmark = pytest.mark.process
_SCALE, _SEED = 25.0, 4
_RUNS, _SHORTEST_S, _LONGEST_S = 24, 90.0, 8 * 3600.0
_INCREMENT_S = 60.0 / _SCALE
_ROUNDED_USD = 1e-9
_real_time = time.time


class Clock:
    """The time of day of this process and of the cloud, which can be moved on together."""

    def __init__(self, cloud: Emulator) -> None:
        self._cloud = cloud
        self._ahead_s = 0.0

    def now(self) -> float:
        return _real_time() + self._ahead_s

    def sleep(self, seconds: float) -> None:
        """So long nobody does anything, and nobody waits for it."""
        self._ahead_s = self._cloud.advance(max(0.0, seconds) * _SCALE)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Machines are rows, and take some seconds to end; whoever asks keeps the API's pace by itself."""
    options = Options(
        time_scale=_SCALE,
        machines=False,
        request_interval_s=0,
        launch_interval_s=0,
        terminating_s=5,
        linger_s=3600,
    )
    with Emulator(options) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        yield emulator


@pytest.fixture
def clock(cloud: Emulator, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Journal and record go by it."""
    made = Clock(cloud)
    monkeypatch.setattr(time, "time", made.now)
    return made


def _offers() -> list[Offer]:
    """One of each machine that is sold, at the API's own price."""
    api = LambdaApi.from_environment()
    api.add_ssh_key("shared", public_key())
    sold = lambda_offers.from_api(api.instance_types())
    asked = [Spec(provider="lambda", instance_type=each.type.name) for each in sold]
    return [lambda_offers.ladder(spec, sold)[0] for spec in asked]


def _begun(workspace: Workspace, offer: Offer) -> Run:
    spec = Spec(provider="lambda", instance_type=offer.instance_type, region=offer.region)
    return intent.write(workspace, new_id(), spec, offer, client=journal.myself(), function="a:f")


def _inputs(run: Run, offer: Offer) -> dict[str, Any]:
    return {
        "name": f"dayfly-{run.id[:12]}",
        "region": offer.region,
        "instance_type": offer.instance_type,
        "ssh_key": "shared",
        "tags": {name: str(value) for name, value in run.tags.items()},
        "user_data": "#cloud-config\n",
    }


def _launch(run: Run, offer: Offer) -> None:
    """Step 3 as the engine does it."""
    identity = {"run": run.id, "directory": str(run.directory), "deadline": run.deadline}
    given = {"owner": run.owner, "rulesets": [], "file_systems": [], **_inputs(run, offer)}
    made = InstanceProvider().create(identity | given)
    journal.append(run.directory, "launched", id=made.id, usd_per_hour=offer.usd_per_hour)


def _launch_unanswered(run: Run, offer: Offer) -> None:
    """What a client leaves that is killed while it waits for the answer."""
    creations.begin(run.directory, "instance")
    with pytest.raises(Unanswered):
        LambdaApi.from_environment().launch(Launch(**_inputs(run, offer)))


def _meter(cloud: Emulator) -> dict[str, float]:
    """Dollars by run."""
    found: dict[str, float] = defaultdict(float)
    for bill in cloud.meter()["bills"]:
        found[bill["tags"]["dayfly-run"]] += bill["dollars"]
    return found


def _told() -> dict[str, dict[str, Any]]:
    """What `dayfly cost` says of each run."""
    said = json.loads(dayfly("cost", "--json").stdout)
    assert said["at_most"] == [each["run"] for each in said["runs"] if each["at_most"]]
    assert said["total"]["usd"] == pytest.approx(sum(each["usd"] for each in said["runs"]))
    return {each["run"]: each for each in said["runs"]}


def _lived(workspace: Workspace, cloud: Emulator, clock: Clock) -> dict[Run, Offer]:
    """Many runs that have come and gone, several at a time."""
    chance, offers = random.Random(_SEED), _offers()
    acts: list[tuple[float, int, bool]] = []
    for number in range(_RUNS):
        start_s = chance.uniform(0, _LONGEST_S)
        share = (number + chance.random()) / _RUNS
        length_s = _SHORTEST_S * (_LONGEST_S / _SHORTEST_S) ** share
        acts += [(start_s, number, True), (start_s + length_s, number, False)]
    runs: dict[int, Run] = {}
    midnight = clock.now()
    for at_s, number, begins in sorted(acts):
        clock.sleep(midnight + at_s / _SCALE - clock.now())
        if begins:
            offer = offers[number % len(offers)]
            runs[number] = _begun(workspace, offer)
            _launch(runs[number], offer)
        else:
            Closer(workspace, None, now=clock.now).close(runs[number].id)
    return {run: offers[number % len(offers)] for number, run in runs.items()}


def test_what_runs_have_cost_is_what_the_meter_says(
    workspace: Workspace, cloud: Emulator, clock: Clock
) -> None:
    """One run by one, all together, one that goes on, and those that nobody knows of whether they were launched."""
    lived = _lived(workspace, cloud, clock)
    offer = min(lived.values(), key=lambda each: each.usd_per_hour)
    lost: dict[str, Run] = {}
    for kind in ("drop_after", "drop_before"):
        lost[kind] = _begun(workspace, offer)
        cloud.add_faults([{"op": "launch", "at": 1, "kind": kind}])
        _launch_unanswered(lost[kind], offer)
        clock.sleep(600.0 / _SCALE)
        Closer(workspace, None, now=clock.now, sleep=clock.sleep).close(lost[kind].id)
    going_on = _begun(workspace, offer)
    _launch(going_on, offer)
    clock.sleep(3600.0 / _SCALE)

    before, told, after = _meter(cloud), _told(), _meter(cloud)
    assert set(told) == {run.id for run in (*lived, *lost.values(), going_on)}
    for run, machine in lived.items():
        over = told[run.id]["usd"] - after[run.id]
        increment = machine.usd_per_hour * _INCREMENT_S / 3600
        assert -_ROUNDED_USD <= over <= increment + _ROUNDED_USD, (run.id, over / increment)
    said = sum(told[run.id]["usd"] for run in lived)
    assert said == pytest.approx(sum(after[run.id] for run in lived), rel=0.005)
    assert [told[run.id]["at_most"] for run in lived] == [False] * _RUNS
    # As many lengths and prices as that is worth something for.
    lengths = sorted(told[run.id]["minutes"] * _SCALE for run in lived)
    assert (lengths[0] < 5, lengths[-1] > 240, len(set(lengths)) > _RUNS / 2) == (True,) * 3
    assert len({each.usd_per_hour for each in lived.values()}) > _RUNS / 3

    increment = offer.usd_per_hour * _INCREMENT_S / 3600
    assert told[going_on.id]["open"]
    assert before[going_on.id] - _ROUNDED_USD <= told[going_on.id]["usd"]
    assert told[going_on.id]["usd"] <= after[going_on.id] + increment + _ROUNDED_USD

    for run in lost.values():
        assert told[run.id]["usd"] >= after[run.id] - _ROUNDED_USD
    assert after[lost["drop_after"].id] > 0
    assert lost["drop_before"].id not in before
    assert told[lost["drop_before"].id]["at_most"]

    Closer(workspace, None, now=clock.now).close(going_on.id)
    assert cloud.live() == []
