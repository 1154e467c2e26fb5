"""Row `dead_instance`: how long after its machine's death a call fails with InstanceLost."""

from __future__ import annotations

import time

from benchmarks import between, client, place, report
from benchmarks.client import Client
from benchmarks.report import Row, Say
from tests.emulators.lambda_cloud import Options
from tests.proxy import Proxy

_MOST_S = 60.0
# What dies how: in silence, as a computer that loses its power; hanging, with its connections open; with a farewell.
_WAYS = ("vanishes", "hangs", "is ended")
_STATES = {"vanishes": "preempted", "hangs": "unhealthy", "is ended": "preempted"}


def measure(say: Say) -> Row:
    """from a machine that vanishes, hangs or is ended, by the provider's word, to InstanceLost with the rest destroyed"""
    took: list[float] = []
    problems: list[str] = []
    with (
        client.emulated([Options()] * len(_WAYS), mapped=True) as clients,
        between.proxies(clients) as proxies,
        between.silence() as nowhere,
    ):
        for each in clients:
            each.await_function()
        died = [
            _die(each, proxy, way, nowhere)
            for each, proxy, way in zip(clients, proxies, _WAYS, strict=True)
        ]
        for each, way, at in zip(clients, _WAYS, died, strict=True):
            said = each.answer()
            if said.get("lost") != _STATES[way]:
                raise place.TrialFailed(f"a machine that {way}: the call came to {said}")
            took.append(said["at"] - at)
            say(f"a machine that {way}: {took[-1]:.2f} s")
            problems += each.left()
    return report.bound("dead_instance", took, _MOST_S, problems)


def _die(each: Client, proxy: Proxy, way: str, nowhere: int) -> float:
    """Ends the machine, in this way; gives the unix time of it."""
    assert each.cloud is not None
    (machine,) = each.cloud.live()
    died = time.time()
    if way == "vanishes":
        proxy.target = nowhere
        proxy.deafen()
    elif way == "hangs":
        each.cloud.freeze(machine["id"])
    each.cloud.mark(machine["id"], _STATES[way])
    return died
