"""Many links cost one process next to nothing while nothing happens: they sleep, and one thread looks after all of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from dayfly.runtime.ssh import link as links
from dayfly.runtime.ssh.connection import Connection
from dayfly.runtime.ssh.link import Link
from dayfly.runtime.ssh.watch import Watch
from tests.sshd import Server, sshd

LINKS = 20


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Each:
    """Something watched that counts the looks; one that fails fails at each."""

    def __init__(self, fails: bool = False) -> None:
        self.looks, self.fails = 0, fails

    def look(self) -> None:
        self.looks += 1
        if self.fails:
            raise OSError("broken")


def test_one_thread_watches_all_and_ends_with_the_last() -> None:
    """It comes again with the next."""
    watch = Watch(lambda: 0.001)
    for _ in range(2):
        watched = [Each() for _ in range(LINKS)]
        for each in watched:
            watch.add(each)
        thread = watch._thread
        assert thread is not None
        while not all(each.looks for each in watched):
            time.sleep(0.001)
        for each in watched:
            assert watch._thread is thread
            watch.remove(each)
            watch.remove(each)
        thread.join()


def test_one_that_fails_takes_no_look_from_the_others() -> None:
    """Nor from itself."""
    watch = Watch(lambda: 3600.0)
    watched = [Each(), Each(fails=True), Each()]
    for each in watched:
        watch.add(each)
    watch.round()
    watch.round()
    assert [each.looks for each in watched] == [2, 2, 2]
    for each in watched:
        watch.remove(each)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sshd(tmp_path_factory.mktemp("machine") / "machine") as running:
        yield running


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Of this test alone; it makes a round when the test says so."""
    own = Watch(lambda: 3600.0)
    monkeypatch.setattr(links, "watch", own)
    return own


@contextlib.contextmanager
def opened(server: Server, number: int, clock: Clock) -> Iterator[list[Link]]:
    """So many links to one machine."""
    keys = server.keys
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(number):
            link = Link(server.machine, keys.user_key, keys.run_id, keys.hmac_key, clock)
            link.open(60)
            stack.callback(link.close)
            made.append(link)
        yield made


@pytest.mark.sshd
def test_twenty_links_sleep_until_their_machines_say_something(
    server: Server, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads each and one for all; in eighteen rounds each is woken by the answers to its two pings, and by nothing else."""
    clock, woken, waited = Clock(), Counter[Link](), list[float | None]()
    take, receive = Link._take, Connection.receive

    def counted(self: Link, data: bytes) -> None:
        woken[self] += 1
        take(self, data)

    def noted(self: Connection, size: int, timeout_s: float | None) -> bytes:
        waited.append(timeout_s)
        return receive(self, size, timeout_s)

    before = set(threading.enumerate())
    monkeypatch.setattr(Link, "_take", counted)
    with opened(server, LINKS, clock) as made:
        monkeypatch.setattr(Connection, "receive", noted)
        for link in made:
            link.ask({"op": "ping"})
        woken.clear()
        waited.clear()
        received = [link._received for link in made]
        threads = set(threading.enumerate()) - before
        ours = Counter(thread.name for thread in threads if thread.name.startswith("dayfly"))
        assert ours == {"dayfly-watch": 1, "dayfly-link": LINKS}
        assert Counter(type(thread).__name__ for thread in threads)["Transport"] == LINKS
        for _ in range(18):
            clock.now += 1.0
            watch.round()
        while any(link._received < had + 2 for link, had in zip(made, received, strict=True)):
            time.sleep(0.001)
        assert [link._received - had for link, had in zip(made, received, strict=True)] == [
            2
        ] * LINKS
        assert max(woken.values()) <= 2 + 2, "an answer may come in two parts"
        assert not waited, "whoever waits for the end looks again and again"
        for link in made:
            assert link._connection._socket is not None
            assert link._connection._socket.gettimeout() is None
    assert watch._thread is None or not watch._watched


@pytest.mark.sshd
def test_a_link_that_would_have_to_wait_is_not_pinged_and_holds_up_no_other(
    server: Server, watch: Watch
) -> None:
    """One whose frame is under way, and one whose machine takes nothing in; once they can, they are."""
    clock = Clock()
    with opened(server, 3, clock) as (sending, full, free):
        channel = full._connection._channel
        assert channel is not None
        window, channel.out_window_size = channel.out_window_size, 0
        sent = [link._sent for link in (sending, full, free)]

        def pinged() -> list[bool]:
            now = [link._sent for link in (sending, full, free)]
            return [after > before for after, before in zip(now, sent, strict=True)]

        with sending._sending:
            clock.now += links.PING_EVERY_S
            watch.round()
            assert pinged() == [False, False, True]
        channel.out_window_size = window
        clock.now += links.PING_EVERY_S
        watch.round()
        assert pinged() == [True, True, True]


@pytest.mark.sshd
def test_a_silent_link_is_broken_in_a_round_and_the_others_go_on(
    server: Server, watch: Watch
) -> None:
    """Whoever waits on it is told; it is watched no more."""
    clock = Clock()
    with opened(server, 2, clock) as (silent, lively):
        silent._connection._socket.heard = 0.0  # type: ignore[union-attr]
        silent._heard = 0.0
        watch.round()
        assert silent.broken
        assert silent not in watch._watched
        assert lively.ask({"op": "ping"})["done"]


@pytest.mark.sshd
def test_a_process_that_was_stopped_for_an_hour_keeps_its_links(
    server: Server, watch: Watch
) -> None:
    """What its machines have said meanwhile is read before they are judged; they are asked at once."""
    clock = Clock()
    with opened(server, 2, clock) as made:
        received = [link._received for link in made]
        clock.now += 3600.0
        watch.round()
        while any(link._received == had for link, had in zip(made, received, strict=True)):
            time.sleep(0.001)
        clock.now += 1.0
        watch.round()
        assert not any(link.broken for link in made)
