"""The machine lets one home at a time have a run in hand: it takes in a new one, and refuses the one before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dayfly.errors import DayflyError, InstanceLost, RunBusy, TakenOver
from dayfly.runtime.session import Session
from tests.test_session import Logs, Runs, await_text, pickler, runs, server

__all__ = ["pickler", "runs", "server"]
pytestmark = pytest.mark.sshd
_CLIENT = {"host": "desk", "pid": 7}


def waiting() -> Callable[[str], str]:
    """A function that prints, and ends when it may; it travels by value."""

    def function(flag: str) -> str:
        print("begun", flush=True)
        while not Path(flag).exists():
            time.sleep(0.02)
        print("ended", flush=True)
        return "value"

    return function


def of(runs: Runs, home: str) -> Session:
    """A session of one home's client."""
    return Session(runs.server.machine, replace(runs.server.keys, home=home))


class Follower(threading.Thread):
    """Follows a job, and holds what came of that."""

    def __init__(self, session: Session) -> None:
        super().__init__(daemon=True)
        self.session, self.logs = session, Logs()
        self.error: DayflyError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.session.follow(self.logs)
        except DayflyError as error:
            self.error = error


@pytest.fixture
def flag(runs: Runs) -> Iterator[Path]:
    """Lets the function end."""
    file = runs.folder / "flag"
    yield file
    file.touch()


def followed(runs: Runs, session: Session, flag: Path) -> Follower:
    """A job that has begun, and whose client follows it."""
    session.start(runs.task(waiting(), str(flag)))
    follower = Follower(session)
    await_text(runs.job / "stdout.log", "begun")
    until = time.monotonic() + 30
    while not (runs.job / "followed").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return follower


def test_a_run_is_taken_from_a_client_that_follows_it_only_by_force(runs: Runs, flag: Path) -> None:
    """That client hears of it at once, and can neither follow nor acknowledge any more; the other gets all of it."""
    with of(runs, "one") as first, of(runs, "two") as second:
        follower = followed(runs, first, flag)
        with pytest.raises(RunBusy, match="right now"):
            second.take("somebody", _CLIENT, force=False)
        assert second.hand() is None
        second.take("somebody", _CLIENT, force=True)
        follower.join(30)
        assert isinstance(follower.error, TakenOver)
        assert "somebody has taken the run in hand" in str(follower.error)
        assert first.hand() == {"home": "two", "named": "somebody", "client": _CLIENT}
        with pytest.raises(TakenOver):
            first.acknowledge()
        assert not first.status().acknowledged
        flag.touch()
        logs = Logs()
        assert second.follow(logs).how == "finished"
        assert bytes(logs.stdout) == b"begun\nended\n"
        second.fetch_result(runs.folder / "result.sealed")
        second.acknowledge()
        with pytest.raises(TakenOver, match="somebody has fetched its result"):
            first.take("the first", _CLIENT, force=True)


def test_a_run_that_nobody_follows_is_taken_and_taken_back(runs: Runs, flag: Path) -> None:
    """Whoever has it last has it; a client of the same home is refused nothing."""
    with of(runs, "one") as first, of(runs, "two") as second:
        first.start(runs.task(waiting(), str(flag)))
        second.take("somebody", _CLIENT, force=False)
        with pytest.raises(TakenOver):
            first.follow(Logs())
        first.take("the first", _CLIENT, force=False)
        with pytest.raises(TakenOver):
            second.acknowledge()
        flag.touch()
        with of(runs, "one") as again:
            assert again.follow(Logs()).how == "finished"
        first.acknowledge()


def test_a_computer_that_sleeps_follows_nothing(runs: Runs, flag: Path) -> None:
    """Its connection stays open, and says nothing: no ping has come for longer than a living client lets pass."""
    with of(runs, "one") as first, of(runs, "two") as second:
        follower = followed(runs, first, flag)
        with pytest.raises(RunBusy):
            second.take("somebody", _CLIENT, force=False)
        os.utime(runs.job / "followed", (0, 0))
        second.take("somebody", _CLIENT, force=False)
        follower.join(30)
        assert isinstance(follower.error, TakenOver)


def test_a_client_that_is_gone_follows_nothing(runs: Runs, flag: Path) -> None:
    """However lately it pinged: its end of the line is closed."""
    with of(runs, "two") as second:
        with of(runs, "one") as first:
            follower = followed(runs, first, flag)
        follower.join(30)
        until = time.monotonic() + 30
        while True:
            try:
                second.take("somebody", _CLIENT, force=False)
                break
            except RunBusy:
                # The agent of a closed connection takes a moment to end.
                assert time.monotonic() < until
                time.sleep(0.05)


def test_a_result_that_was_fetched_is_taken_by_nobody(runs: Runs, flag: Path) -> None:
    """Its machine is about to be destroyed: which of the two comes first, the machine tells."""
    flag.touch()
    with of(runs, "one") as first, of(runs, "two") as second:
        first.start(runs.task(waiting(), str(flag)))
        first.follow(Logs())
        first.acknowledge()
        with pytest.raises(TakenOver, match="has fetched its result"):
            second.take("somebody", _CLIENT, force=True)
        assert second.hand() is None
        first.take("the first", _CLIENT, force=False)


def test_whoever_only_watches_changes_nothing(runs: Runs, flag: Path) -> None:
    """The log comes from its beginning, whoever has the run in hand, and a taker finds nobody there."""
    with of(runs, "one") as first, of(runs, "two") as second, of(runs, "three") as third:
        first.start(runs.task(waiting(), str(flag)))
        await_text(runs.job / "stdout.log", "begun")
        logs, done = Logs(), threading.Event()

        def watch() -> None:
            third.watch(logs)
            done.set()

        threading.Thread(target=watch, daemon=True).start()
        second.take("somebody", _CLIENT, force=False)
        assert third.hand() == {"home": "two", "named": "somebody", "client": _CLIENT}
        flag.touch()
        assert second.follow(Logs()).how == "finished"
        assert done.wait(30)
        assert bytes(logs.stdout) == b"begun\nended\n"


def test_a_job_that_was_never_started_is_taken_by_nobody(runs: Runs) -> None:
    """There is none."""
    with of(runs, "two") as second, pytest.raises(InstanceLost, match="no job of this run"):
        second.take("somebody", _CLIENT, force=True)


def test_where_no_other_home_can_have_it_nothing_is_asked(runs: Runs, flag: Path) -> None:
    """Clients without a name are as they always were."""
    flag.touch()
    with runs.session() as session:
        session.start(runs.task(waiting(), str(flag)))
        assert session.follow(Logs()).how == "finished"
        session.acknowledge()
    assert not (runs.job / "followed").exists()
    assert not (runs.job / "hand.json").exists()
