"""What the crowd is made of: who is to die when, what functions say of themselves, and how much memory that takes."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import family
from tests.faults.crowd import POINTS, Client, Crowd, Plan
from tests.faults.peak import Peak
from tests.faults.starts import Starts, starts

_RUN, _OTHER = "a" * 32, "b" * 32
_SLEEP = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("runs", [1, 6, 40, 200])
def test_a_twentieth_of_all_clients_is_to_die(runs: int, seed: int) -> None:
    """One at least; every call is made once, and whoever is aimed at has a client for it alone.

    Of several clients with many calls one dies as well; with what it takes along there are still so many runs.
    """
    plan = Plan.of(runs, seed)
    assert plan == Plan.of(runs, seed)
    assert sorted(number for group in plan.groups for number in group) == list(range(plan.calls))
    large = [group for group in plan.groups if len(group) > 1]
    assert len(plan.many) == (len(large) > 2)
    assert plan.calls == runs + 10 * len(plan.many)
    assert len(plan.aimed) + len(plan.moments) == max(1, runs // 20)
    assert all(plan.groups[number] == (number,) for number in plan.aimed)
    assert set(plan.aimed.values()) <= set(POINTS)
    assert list(plan.moments) == sorted(plan.moments)
    free = sum(len(group) == 1 and group[0] not in plan.aimed for group in plan.groups)
    assert free >= len(plan.moments)


def test_functions_tell_how_often_they_have_begun_and_finished() -> None:
    """Each call and each run by itself; what is no such word is not counted."""
    with starts() as counted:
        for line in (f"started 1 {_RUN}", f"started 1 {_OTHER}", f"finished 1 {_OTHER}", "x"):
            with socket.create_connection(("127.0.0.1", counted.port), 10) as connection:
                connection.sendall(line.encode() + b"\n")
                assert connection.makefile().readline() == ("" if line == "x" else "counted\n")
    assert [counted.of_run(run) for run in (_RUN, _OTHER)] == [1, 1]
    assert [counted.run_has_finished(run) for run in (_RUN, _OTHER)] == [False, True]
    assert [counted.has_finished(number) for number in (1, 2)] == [True, False]
    assert [counted.call_of(run) for run in (_RUN, _OTHER, "c" * 32)] == [1, 1, None]
    assert counted.finished == 1


def test_a_client_that_was_killed_while_it_spoke_has_said_what_is_whole(tmp_path: Path) -> None:
    """And one that had ended cannot be killed."""
    log = tmp_path / "client.log"
    log.write_text('{"number": 3, "value": "v"}\n{"number": 4, "va')
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        client = Client((3, 4), process, log)
        assert client.said == {3: {"number": 3, "value": "v"}}
        assert not client.kill("then")
    assert client.killed == ""


@pytest.mark.process
def test_the_moments_of_a_plan_come(tmp_path: Path) -> None:
    """At a point of its own run, and when enough calls have finished: three of four clients die, the last ends."""
    counted = Starts()
    groups = ((0,), (1,), (2, 3), (4,))
    plan = dataclasses.replace(
        Plan.of(1, 0), groups=groups, aimed={0: "launched", 4: "never"}, moments=(1.0,)
    )
    plan = dataclasses.replace(plan, width_s={0: 0.0}, many=(1.0,))
    everybody = Crowd(tmp_path, 0, plan, counted)
    brief = [sys.executable, "-c", "import time; time.sleep(1)"]
    for numbers in plan.groups:
        command = _SLEEP if numbers != (4,) else brief
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        everybody.clients.append(Client(numbers, process, tmp_path / "log"))
    run = tmp_path / "runs" / _RUN
    run.mkdir(parents=True)
    pid = everybody.clients[0].process.pid
    lines = [f'{{"event": "intent", "client": {{"pid": {pid}}}}}', '{"event": "launched"}']
    (run / "journal.jsonl").write_text("\n".join(lines) + "\n")
    counted.say(f"finished 2 {_OTHER}")
    try:
        assert everybody.watch(60)
    finally:
        everybody.end()
    assert everybody.runs(0) == [_RUN]
    killed = [client.killed for client in everybody.clients]
    assert killed == [
        "after 'launched'",
        "when 1 calls had finished",
        "of 2 calls when 1 calls had finished",
        "",
    ]


@pytest.mark.process
def test_memory_is_that_of_all_who_have_the_home_or_are_below(tmp_path: Path) -> None:
    """The cloud's share is told apart; one of another home, which is no child of this process, is not looked for."""
    own = {**os.environ, "DAYFLY_HOME": str(tmp_path)}
    with (
        subprocess.Popen(_SLEEP, env=own, stdout=subprocess.PIPE, start_new_session=True) as ours,
        subprocess.Popen(_SLEEP, stdout=subprocess.PIPE) as cloud,
    ):
        try:
            for process in (ours, cloud):
                assert process.stdout is not None
                process.stdout.readline()
            found = Peak(tmp_path, cloud.pid)
            found.look()
        finally:
            ours.kill()
            cloud.kill()
    # This process may have other children.
    assert found.processes >= 2
    assert 0 < found.cloud_bytes < found.total_bytes


def test_a_sample_has_few_and_small_trials() -> None:
    """Where a whole one takes minutes; the others are as they are."""
    crowd, kills = family.load("crowd"), family.load("kills")
    assert crowd.as_sample.trials == crowd.sample
    assert crowd.as_sample.run is crowd.small
    assert kills.as_sample.run is kills.run
