"""Samples of a job, brought by a session over a real SSH server."""

from __future__ import annotations

import os
import pickle
import time

import pytest

from dayfly.runtime import samples
from dayfly.runtime.agent import samples as agent_samples
from dayfly.runtime.session import Session
from tests.proxy import proxy
from tests.test_session import Logs, Runs, await_text, pickler, runs, server

__all__ = ["pickler", "runs", "server"]
pytestmark = pytest.mark.sshd


def test_samples_come_with_the_log_each_once_however_often_the_connection_drops(runs: Runs) -> None:
    """Cut after every second piece; the last sample is there before the end is told."""
    pieces: list[bytes] = []
    enough = runs.folder / "enough"

    def function(enough: str) -> int:
        number = 0
        while not os.path.exists(enough):  # noqa: PTH110  # what travels should be small
            print(number, flush=True)
            number += 1
            time.sleep(0.02)
        return number

    with proxy(runs.server.machine.port) as between:

        def take(number: int, lines: bytes) -> None:
            pieces.append(lines)
            assert samples.parse(lines)[-1].number == number
            if len(pieces) % 2:
                between.cut()
            if len(pieces) == 4:
                enough.touch()

        logs = Logs()
        with Session(runs.server.through(between.port), runs.server.keys) as session:
            # A floor that no GPU is there for only makes the readings come faster.
            task = runs.task(function, str(enough), gpu_floor_percent=1.0, gpu_window_s=0.4)
            session.start(task)
            end = session.follow(logs, samples=take)
            count = pickle.loads(runs.result(session)[1])
        assert between.connections >= 3
    assert end.how == "finished"
    assert bytes(logs.stdout) == b"".join(b"%d\n" % number for number in range(count))
    here = b"".join(pieces)
    assert here == (runs.job / agent_samples.SAMPLES).read_bytes()
    found = samples.parse(here)
    assert len(found) >= 4
    assert [each.number for each in found] == list(range(len(found)))
    assert sum(each.seconds for each in found) <= end.ended - end.started
    assert found[0].processes == 1
    assert found[0].memory_bytes > 1 << 20


def test_who_follows_again_gets_only_what_is_new(runs: Runs) -> None:
    """As a client that attaches, and as one that does not ask for any."""
    pieces: list[int] = []
    with runs.session() as session:
        session.start(runs.task(lambda: time.sleep(1.5)))
        session.follow(Logs())
        last = session.look().last
        assert last >= 1
        session.follow(Logs(), samples=lambda number, _: pieces.append(number), since=last)
        assert pieces == []
        session.follow(Logs(), samples=lambda number, _: pieces.append(number), since=last - 1)
        assert pieces == [last]


def test_a_look_gives_the_ends_of_the_logs_and_does_not_disturb_who_follows(runs: Runs) -> None:
    """It can be repeated at will."""

    def function(looked: str) -> None:
        print("a" * 1000 + "the end", end="", flush=True)
        while not os.path.exists(looked):  # noqa: PTH110  # what travels should be small
            time.sleep(0.01)

    looked = runs.folder / "looked"
    with runs.session() as first, runs.session() as second:
        first.start(runs.task(function, str(looked)))
        await_text(runs.job / "stdout.log", "the end")
        found = second.look(tail=7)
        assert found.tails == {"stdout": b"the end", "stderr": b""}
        assert found.status.state == "running"
        assert second.look().tails == {}
        looked.touch()
        logs = Logs()
        assert first.follow(logs).how == "finished"
        assert bytes(logs.stdout) == b"a" * 1000 + b"the end"
