"""Row `capacity_miss`: how long after a region's "no capacity" the next one is asked for a machine."""

from __future__ import annotations

from benchmarks import client, place, report
from benchmarks.client import Client
from benchmarks.report import Row, Say
from benchmarks.trial_call import LAMBDA_TYPE
from tests.emulators.lambda_cloud import Emulator, Fault, Options

_MOST_S = 5.0
_LIMIT_S = 120.0
# A refusal that comes at once leaves time to work before the API, which takes a launch each 12 s, allows the next one; one
# that comes later leaves none, so that everything counts. Some seconds apart: no trial works beside another.
_INTERVAL_S = 12.0
# And it takes a request a second: ruleset, key, the look for a second key of its name, launch.
_REQUESTS_S = 3.0
_ANSWERED_S = (0.0, 13.0, 18.0, 23.0)


def measure(say: Say) -> Row:
    """from a refused launch's answer to the next launch, less what the API's limits leave no choice about: 12 s between the two, a second between requests"""
    took: list[float] = []
    clouds = [
        Options(faults=(Fault("launch", "delay_answer", at=(1,), delay_s=answered_s),))
        for answered_s in _ANSWERED_S
    ]
    with client.emulated(clouds, prepare=_sell_out) as clients:
        for each, answered_s in zip(clients, _ANSWERED_S, strict=True):
            took.append(_beyond(each, answered_s))
            say(f"refused after {answered_s:g} s: {took[-1]:.2f} s")
        problems = [problem for each in clients for problem in each.interrupt()]
    return report.bound("capacity_miss", took, _MOST_S, problems)


def _sell_out(cloud: Emulator) -> None:
    """The region that is asked first has nothing, whatever the listing says."""
    cloud.set_capacity(LAMBDA_TYPE, "us-west-1", 0, listed=True)


def _beyond(each: Client, answered_s: float) -> float:
    """Seconds that the client took for itself, by the cloud's own log."""
    assert each.cloud is not None
    cloud = each.cloud
    place.wait(
        "the next launch", lambda: cloud.events("launch_accepted"), _LIMIT_S, each.said, every_s=0.1
    )
    asked, launches = cloud.events("fault"), cloud.health()["calls"]["launch"]
    if len(asked) != 1 or launches != 2:
        raise place.TrialFailed(f"{launches} launches, and not one that was refused before another")
    first, refused = asked[0]["at"], asked[0]["at"] + answered_s
    allowed: float = max(refused + _REQUESTS_S, first + _INTERVAL_S)
    return float(cloud.events("launch_accepted")[0]["at"]) - allowed
