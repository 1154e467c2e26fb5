"""Row `dead_link`: for how long a client takes a connection for alive that swallows everything."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks import between, client, place, report
from benchmarks.client import Client
from benchmarks.report import Row, Say
from benchmarks.trial_call import STEP
from tests.emulators.lambda_cloud import Options
from tests.proxy import Proxy

_TRIALS = 3
_MOST_S = 30.0
_LIMIT_S = 120.0


def measure(say: Say) -> Row:
    """from a network that swallows all bytes, in the midst of the log, until the client gives the connection up for a new one"""
    with (
        client.emulated([Options()] * _TRIALS, mapped=True) as clients,
        between.proxies(clients) as proxies,
    ):
        for each in clients:
            each.await_function()
        # A link that has just spoken is believed in for the longest, and these speak 20 times a second.
        died = time.time()
        for proxy in proxies:
            proxy.deafen()
        took = [at - died for at in _dialled(proxies, clients)]
        say(", ".join(f"{seconds:.2f} s" for seconds in took))
        problems = [problem for each in clients for problem in _went_on(each)]
    return report.bound("dead_link", took, _MOST_S, problems)


def _dialled(proxies: Sequence[Proxy], clients: Sequence[Client]) -> list[float]:
    """When each proxy had a connection that it has not now."""
    before = [proxy.connections for proxy in proxies]
    seen: dict[int, float] = {}

    def all_seen() -> bool:
        for number, proxy in enumerate(proxies):
            if proxy.connections > before[number]:
                seen.setdefault(number, time.time())
        return len(seen) == len(proxies)

    place.wait("every new connection", all_seen, _LIMIT_S, clients[0].said)
    return [seen[number] for number in range(len(proxies))]


def _went_on(each: Client) -> list[str]:
    """What of the log did not come over the new connection, and what is left in the end."""
    before = len(_steps(each))
    place.wait("the log", lambda: len(_steps(each)) > before, _LIMIT_S, each.said)
    problems, steps = each.interrupt(), _steps(each)
    if steps != [f"{STEP} {number}" for number in range(len(steps))]:
        problems.append("the log has a gap or a repeat")
    return problems


def _steps(each: Client) -> list[str]:
    """The function's whole lines."""
    lines = each.output.read_text().split("\n")[:-1]
    return [line for line in lines if line.startswith(STEP)]
