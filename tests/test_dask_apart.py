"""Dask on machines that reach each other through the client alone: real ones, each with a loopback of its own and no other network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dayfly.errors import JobStopped
from dayfly.runtime.records import JobEnd
from dayfly.runtime.ssh import link
from dayfly.runtime.warm_call import WarmCall
from tests import listening, warm
from tests.machines import machines_apart
from tests.proxy import Proxy
from tests.test_dask_calls import Run, places

pytestmark = [pytest.mark.sshd, pytest.mark.usefixtures("own_networks")]


class Apart(NamedTuple):
    """A run on two machines, and the client's way to each."""

    run: Run
    ways: list[Proxy]

    def homes(self) -> set[str]:
        """Of the machines that make calls now."""
        return set(self.run.map(places, range(8)))

    @property
    def all_homes(self) -> set[str]:
        """Of both machines."""
        return {str(server.home) for server in self.run.servers}

    def submit(self, function: Callable[..., Any], *items: object) -> list[WarmCall[Any]]:
        """A call for each item."""
        return self.run.have(function).submit_all([((item,), {}) for item in items])


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, own_networks: None) -> Iterator[Apart]:
    """Two machines, one call at a time on each, followed as a client does."""
    folder = tmp_path_factory.mktemp("apart")
    with machines_apart(folder, 2) as (servers, ways):
        run = Run(servers, folder)

        def follow() -> JobEnd:
            with run.log(0) as (sink, stdout, stderr):
                return run.fleet.follow(sink, stdout, stderr)

        with run.fleet, ThreadPoolExecutor(1) as pool:
            run.begin()
            following = pool.submit(follow)
            yield Apart(run, ways)
            run.calls.finish()
            assert following.result(warm.WAIT_S).how == "finished"
            run.calls.end(JobStopped("over"))


def until(true: Callable[[], bool]) -> None:
    """Waits for it."""
    end = time.monotonic() + warm.WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_machines_that_only_the_client_reaches_make_calls(apart: Apart) -> None:
    """Scheduler and workers are reached at the same address from everywhere, and large content goes through, too."""
    assert apart.homes() == apart.all_homes
    sent = [os.urandom(3_000_000) for _ in range(4)]
    calls = apart.submit(lambda data: data[::-1], *sent)
    assert [call.result(warm.WAIT_S) for call in calls] == [data[::-1] for data in sent]


def test_nothing_listens_but_on_loopback(apart: Apart) -> None:
    """Nor do the SSH servers, for the other machines."""
    known = apart.run.cluster._known
    workers = {ports[0] for ports in known["ports"]}
    for server in apart.run.servers:
        found = listening.of_network(server.pid)
        assert {address for address, _ in found} == {"127.0.0.1"}
        assert {known["port"], *workers} <= {port for _, port in found}
    assert known["dashboard"] in {
        port for _, port in listening.of_network(apart.run.servers[0].pid)
    }
    # Of no use to the users of another machine.
    assert known["dashboard"] not in {
        port for _, port in listening.of_network(apart.run.servers[1].pid)
    }


@pytest.mark.parametrize("how", [Proxy.cut, Proxy.lose])
def test_a_call_under_way_outlives_the_way_to_its_machine(
    apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Proxy], None]
) -> None:
    """Its value comes as soon as there is a way again, and it was begun once; also where the server has not heard of the end."""
    monkeypatch.setattr(link, "PING_EVERY_S", 0.2)

    def f(x: int) -> tuple[int, str]:
        with (tmp_path / f"begun-{x}").open("a") as begun:
            begun.write("x")
        while not (tmp_path / "go").exists():
            time.sleep(0.02)
        return x * x, os.environ["HOME"]

    calls = apart.submit(f, 2, 3)
    until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    before = apart.ways[1].connections
    how(apart.ways[1])
    until(lambda: apart.ways[1].connections > before)
    (tmp_path / "go").touch()
    found = [call.result(warm.WAIT_S) for call in calls]
    assert [value for value, _ in found] == [4, 9]
    assert {home for _, home in found} == apart.all_homes
    assert {path.read_text() for path in tmp_path.glob("begun-*")} == {"x"}
    until(lambda: apart.homes() == apart.all_homes)


def test_a_call_that_ended_while_its_machine_was_out_of_reach_is_not_lost(
    apart: Apart, tmp_path: Path
) -> None:
    """Its process keeps what came of it."""

    def f(x: int) -> tuple[int, str]:
        with (tmp_path / f"begun-{x}").open("a") as begun:
            begun.write("x")
        while not (tmp_path / "go").exists():
            time.sleep(0.02)
        (tmp_path / f"over-{x}").touch()
        return x, os.environ["HOME"]

    calls = apart.submit(f, 1, 2)
    until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    way, target = apart.ways[1], apart.ways[1].target
    way.target = 1
    try:
        way.cut()
        (tmp_path / "go").touch()
        until(lambda: len(list(tmp_path.glob("over-*"))) == 2)
    finally:
        way.target = target
    found = [call.result(warm.WAIT_S) for call in calls]
    assert [value for value, _ in found] == [1, 2]
    assert {path.read_text() for path in tmp_path.glob("begun-*")} == {"x"}
    until(lambda: apart.homes() == apart.all_homes)


def test_a_call_that_was_stopped_while_its_machine_was_out_of_reach_ends_there(
    apart: Apart, tmp_path: Path
) -> None:
    """As soon as it is there again, and its place is there for others."""

    def f(x: int) -> None:
        (tmp_path / f"begun-{x}").write_text(f"{os.environ['HOME']} {os.getpid()}")
        time.sleep(600)

    calls = apart.submit(f, 1, 2)
    until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    until(lambda: all(path.read_text() for path in tmp_path.glob("begun-*")))
    told = dict(path.read_text().split() for path in tmp_path.glob("begun-*"))
    far = int(told[str(apart.run.servers[1].home)])
    way, target = apart.ways[1], apart.ways[1].target
    way.target = 1
    try:
        way.cut()
        for call in calls:
            call.stop()
        for call in calls:
            with pytest.raises(JobStopped):
                call.result(warm.WAIT_S)
        os.kill(far, 0)
    finally:
        way.target = target
    until(lambda: apart.homes() == apart.all_homes)
    with pytest.raises(ProcessLookupError):
        os.kill(far, 0)
