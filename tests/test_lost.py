"""How soon a dead link and a dead machine are noticed, and what of a job that only keeps quiet."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dayfly.errors import ConfigurationError, InstanceLost, JobStopped
from dayfly.infra.found import State
from dayfly.runtime import session as sessions
from dayfly.runtime.session import Session
from dayfly.runtime.ssh import link as links
from dayfly.runtime.ssh.connection import Disconnected
from dayfly.runtime.ssh.link import Link
from dayfly.runtime.warm_calls import WarmCalls
from dayfly.runtime.warm_function import WarmFunction
from tests import warm
from tests.proxy import Proxy, proxy
from tests.sshd import Server, sshd

pytestmark = pytest.mark.sshd


@dataclass
class Clock:
    """A monotonic clock that can be put forward."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass
class Provider:
    """What the provider says of the machine, and when it was asked."""

    says: State
    clock: Clock = field(default_factory=Clock)
    asked: list[float] = field(default_factory=list)

    def __call__(self) -> State:
        self.asked.append(self.clock())
        return self.says


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("lost") / "machine") as running:
        yield running


@pytest.fixture
def between(server: Server) -> Iterator[Proxy]:
    with proxy(server.machine.port) as running:
        yield running


def vanish(between: Proxy) -> None:
    """The machine is gone: its connections end, and nobody answers at its address."""
    between.target = 1
    between.cut()


def test_a_dead_link_is_noticed_within_30_s(server: Server, between: Proxy) -> None:
    """Nothing is reset, nothing arrives: counted from the last word, on the session's own clock."""
    clock, keys = Clock(), server.keys
    link = Link(server.through(between.port), keys.user_key, keys.run_id, keys.hmac_key, clock)
    made = link.heard
    link.open(20)
    link.ask({"op": "stat"})
    assert link.heard > made
    between.deafen()
    waiting = threading.Thread(target=pytest.raises, args=(Disconnected, link.ask, {"op": "stat"}))
    waiting.start()
    clock.ahead = 25.0
    waiting.join(1.5)
    assert waiting.is_alive()
    # The reader looks once a second.
    clock.ahead = 29.0 - 1.5
    waiting.join()
    assert link.broken
    assert links.PING_EVERY_S * links.PINGS_MISSED + 1.0 <= 30.0
    link.close()


@pytest.mark.parametrize("says", ["terminated", "preempted", "unhealthy", "stopping"])
def test_a_dead_machine_is_called_lost_with_its_state(
    server: Server, between: Proxy, says: State
) -> None:
    """As soon as the provider says so, long before the patience is over."""
    provider = Provider(says)
    with Session(server.through(between.port), server.keys, state=provider) as session:
        vanish(between)
        with pytest.raises(InstanceLost, match=f"the provider says that it is {says}") as caught:
            session.status()
    assert caught.value.state == says
    assert len(provider.asked) == 1


def test_a_dead_machine_is_noticed_within_60_s() -> None:
    """A link that breaks by its silence, one try that nobody answers, one pause between two questions."""
    silent = links.PING_EVERY_S * links.PINGS_MISSED + 1.0
    assert silent + sessions._RECONNECT_S + sessions._ASK_EVERY_S <= 60.0
    assert silent > sessions._ASK_AFTER_S


def test_a_silent_link_makes_the_provider_be_asked_at_once(server: Server, between: Proxy) -> None:
    """It has been silent for half a minute, so the first failure is not that of any dropped connection."""
    clock = Clock()
    provider = Provider("terminated", clock)
    machine = server.through(between.port)
    with Session(machine, server.keys, state=provider, clock=clock) as session:
        session.status()
        between.deafen()
        between.target = 1
        began = clock()
        lost = threading.Thread(target=pytest.raises, args=(InstanceLost, session.status))
        lost.start()
        lost.join(0.2)
        clock.ahead = 29.0
        lost.join()
    assert len(provider.asked) == 1
    assert provider.asked[0] - began < 35.0


@pytest.mark.parametrize("says", ["running", "unknown"])
def test_a_machine_that_lives_is_not_called_lost(
    server: Server, between: Proxy, says: State
) -> None:
    """It is asked for again now and then, and the connection is tried until the patience is over."""
    clock = Clock()
    provider = Provider(says, clock)
    machine = server.through(between.port)
    with Session(machine, server.keys, give_up_s=60, state=provider, clock=clock) as session:
        vanish(between)

        def pass_the_time() -> None:
            while clock.ahead < 61.0:
                time.sleep(0.02)
                clock.ahead += 0.5

        passing = threading.Thread(target=pass_the_time)
        passing.start()
        with pytest.raises(InstanceLost, match="could not be reached for 6") as caught:
            session.status()
        passing.join()
    assert caught.value.state == ""
    gaps = [
        later - sooner for sooner, later in zip(provider.asked, provider.asked[1:], strict=False)
    ]
    assert provider.asked
    assert all(gap >= sessions._ASK_EVERY_S for gap in gaps)


def test_a_provider_out_of_reach_proves_nothing(server: Server, between: Proxy) -> None:
    """A network that is down takes both away; when it is back, the session goes on."""
    asked = threading.Event()

    def state() -> State:
        asked.set()
        raise ConfigurationError("the API cannot be reached")

    with Session(server.through(between.port), server.keys, state=state) as session:
        vanish(between)

        def come_back() -> None:
            asked.wait()
            between.target = server.machine.port

        returning = threading.Thread(target=come_back)
        returning.start()
        assert session.status().state == "absent"
        returning.join()


def test_a_link_that_is_gone_for_less_than_a_minute_is_tried_again_and_again(
    server: Server,
) -> None:
    """Whoever waits sees the log as soon as it is back; later there is time."""
    clock = Clock()
    session = Session(server.machine, server.keys, clock=clock)
    assert max(session._pause(None) for _ in range(20)) <= 0.2  # type: ignore[arg-type]  # it looks at the clock only
    clock.ahead = 61.0
    assert min(session._pause(None) for _ in range(20)) >= 2.5  # type: ignore[arg-type]


def test_a_job_that_keeps_quiet_is_not_given_up_at_the_first_drop(
    server: Server, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine answers pings all the time: the patience is with silence, not with a job that has nothing to say."""
    monkeypatch.setattr(links, "PING_EVERY_S", 0.1)
    with Session(server.through(between.port), server.keys, give_up_s=1.0) as session:
        former = session._link
        assert former is not None
        session._progress()
        session._heard -= 3600.0
        before = former.heard
        while former.heard == before:
            time.sleep(0.01)
        between.cut()
        while not former.broken:
            time.sleep(0.01)
        assert not session._lost(None)  # type: ignore[arg-type]  # it looks at the clock only
        assert session.status().state == "absent"


def test_an_outage_costs_the_calls_nothing_that_whoever_follows_the_job_has_not_given_up(
    tmp_path: Path,
) -> None:
    """The line alone gives nothing up that may come back: what becomes of the run is decided in one place."""

    def function(begun: Path, go: Path) -> int:
        begun.touch()
        while not go.exists():
            time.sleep(0.005)
        return 7

    lost: list[Exception] = []
    (tmp_path / "run").mkdir()
    with (
        sshd(tmp_path / "machine", is_new=False) as server,
        proxy(server.machine.port) as between,
        Session(server.through(between.port), server.keys, give_up_s=1.0) as session,
    ):
        session.start(warm.task(server, tmp_path, warm.settings()))
        calls: WarmCalls[int] = WarmCalls(WarmFunction(function), session, tmp_path / "run")
        calls.begin(lost.append)
        call = calls.submit_all([((tmp_path / "begun", tmp_path / "go"), {})])[0]
        until = time.monotonic() + warm.WAIT_S
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until, "the call does not begin"
            time.sleep(0.005)
        between.target = 1
        between.cut()
        with pytest.raises(InstanceLost, match="could not be reached"):
            session.follow(lambda *_: None)
        with pytest.raises(InstanceLost, match="could not be reached"):
            session.status()
        assert (lost, call.done()) == ([], False)
        (tmp_path / "go").touch()
        between.target = server.machine.port
        assert call.result(warm.WAIT_S) == 7
        calls.finish()
        assert session.follow(lambda *_: None).how == "finished"
        calls.end(JobStopped("the test is over"))


def test_calls_hear_at_once_of_a_machine_that_is_gone(tmp_path: Path) -> None:
    """Its provider says so; that is not waited for until the machine has been proved gone."""
    (tmp_path / "run").mkdir()
    with (
        sshd(tmp_path / "machine", is_new=False) as server,
        proxy(server.machine.port) as between,
        Session(server.through(between.port), server.keys, state=lambda: "preempted") as session,
    ):
        session.start(warm.task(server, tmp_path, warm.settings()))
        calls: WarmCalls[None] = WarmCalls(WarmFunction(time.sleep), session, tmp_path / "run")
        calls.begin()
        call = calls.submit_all([((600.0,), {})])[0]
        between.target = 1
        between.cut()
        with pytest.raises(InstanceLost, match="the provider says that it is preempted"):
            call.result(warm.WAIT_S)
        calls.end(JobStopped("the test is over"))
