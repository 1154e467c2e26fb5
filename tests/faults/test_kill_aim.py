"""What the kill matrix covers is known from its seeds, and where a run is from its files and the cloud's ground truth."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.emulators.lambda_cloud import Emulator, Options
from tests.faults.aftermath import owed
from tests.faults.campaign import parts_of
from tests.faults.families.kills import FAMILY
from tests.faults.kill_aim import CELLS, KEPT, LAMBDA, LOCAL, PLAIN, RANKS, SESSION, WHOM, Aim
from tests.faults.kill_bench import VICTIMS
from tests.faults.kill_call import Call, strike
from tests.faults.kill_hold import Hold, held
from tests.faults.lambda_world import World
from tests.faults.moments import POINTS, Lines, Sight
from tests.faults.share import Share
from tests.faults.starts import Starts

_RUN = "a" * 32


@pytest.mark.parametrize("first", [0, 7, 20_000, 1_234_567])
def test_every_point_has_its_kills_wherever_a_campaign_begins(first: int) -> None:
    """Half of all on Lambda, half at named points, 30 at least at each of them; whoever makes a machine dies there."""
    aims = [Aim.of(first + number) for number in range(FAMILY.trials)]
    assert Counter(aim.provider for aim in aims) == {LAMBDA: 250, LOCAL: 250}
    named = Counter(aim.point for aim in aims)
    assert named.pop("") == 250
    assert named.keys() == set(POINTS)
    assert min(named.values()) >= 30
    far = [aim for aim in aims if aim.provider == LAMBDA]
    for point in ("before POST", "accepted", "answered"):
        there = [aim for aim in far if aim.point == point]
        assert {aim.whom for aim in there} == set(WHOM)
        assert all(aim.hold for aim in there)
    assert {aim.hold.kind for aim in far if aim.point == "before POST" and aim.hold} == {
        "hold",
        "hold_drop",
    }


@pytest.mark.parametrize("first", [0, 20_000])
def test_half_of_the_runs_here_are_no_plain_calls(first: int) -> None:
    """Each kind has its share, at each point and at any moment; whoever may die dies in each of them."""
    aims = [Aim.of(first + number) for number in range(FAMILY.trials)]
    assert {aim.kind for aim in aims if aim.provider == LAMBDA} == {PLAIN}
    here = [aim for aim in aims if aim.provider == LOCAL]
    kinds = Counter(aim.kind for aim in here)
    assert 120 <= kinds.pop(PLAIN) <= 130
    assert kinds.keys() == {KEPT, SESSION, RANKS}
    assert min(kinds.values()) >= 36
    for kind in kinds:
        own = [aim for aim in here if aim.kind == kind]
        assert {aim.point for aim in own} == {"", *POINTS}
        assert {aim.whom for aim in own} == {"", *WHOM}
    assert {(aim.provider, aim.kind) for aim in aims} == VICTIMS.keys()


@pytest.mark.parametrize("first", [0, 819_764_056])
def test_no_part_of_a_campaign_has_one_point_alone(first: int) -> None:
    """It would have all the trials that are made again and again, and be at work when the others have ended."""
    parts = parts_of(FAMILY.jobs, FAMILY.trials)
    share = Share(FAMILY, FAMILY.trials, first)
    for number in range(parts):
        aims = [Aim.of(share.seed_of(each)) for each in share.part(number, parts).numbers]
        assert {aim.provider for aim in aims} == {LAMBDA, LOCAL}
        assert len({aim.point for aim in aims}) > len(POINTS) / 2


def test_a_call_that_was_refused_is_not_held() -> None:
    """As one launch of too many: its kill has missed its moment, and is made again."""
    options = Options(machines=False, request_interval_s=0.0, launch_interval_s=3600.0)
    with Emulator(options) as cloud:
        world = World(cloud, 0, None)
        world.renew(options)
        with held(world, Hold("launch", "hold_answer")) as call_held:
            assert call_held is not None
            url = f"{cloud.url.removesuffix('/')}/instance-operations/launch"
            key = {"Authorization": f"Bearer {cloud.api_key}"}
            assert requests.post(url, json={}, headers=key, timeout=10).status_code == 429
            assert cloud.faults()["faults"][0]["hits"] == 1
            assert not call_held.wait(0.0)


def test_what_a_seed_is_for_comes_again() -> None:
    """So that a trial which did not count is made again with another seed for the same."""
    for seed in range(2000):
        again = Aim.of(seed + CELLS)
        assert replace(again, seed=seed) == Aim.of(seed)


def test_the_sample_is_the_worst_moment_and_one_of_two_machines() -> None:
    """The machine is there, nobody knows its id, and everybody is dead; and the value of two ranks, which is not home yet."""
    assert FAMILY.sample == 2
    aim, other = Aim.of(20_000), Aim.of(20_001)
    assert (aim.provider, aim.point, aim.whom) == (LAMBDA, "accepted", "all")
    assert (other.kind, other.point, other.whom) == (RANKS, "finished", "all")


# -- where a run is


def _append(file: Path, *lines: dict[str, Any]) -> None:
    with file.open("a") as output:
        output.writelines(json.dumps(line) + "\n" for line in lines)


class _Story:
    """A run's files, and a ground truth, written line by line."""

    def __init__(self, home: Path, *, far: bool) -> None:
        self.directory = home / "runs" / _RUN
        self.directory.mkdir(parents=True)
        self.told = Starts()
        cloud = Emulator()
        cloud.log = home / "truth.jsonl"
        cloud.log.touch()
        self.truth = cloud.log
        world = World(cloud, 0, None) if far else None
        self.sight = Sight(home, _RUN, self.told, world)

    def journal(self, *events: str) -> None:
        _append(self.directory / "journal.jsonl", *({"event": event} for event in events))


def test_where_a_run_on_lambda_is(tmp_path: Path) -> None:
    """A machine of another run, an answer about a key and what has been deleted do not count."""
    story = _Story(tmp_path, far=True)
    sight, name = story.sight, f"dayfly-{_RUN}-00000000-1"
    story.journal("intent", "up_started")
    creations = story.directory / "creations.jsonl"
    _append(creations, {"token": "k", "kind": "key", "begun": 1.0})
    _append(creations, {"token": "k", "id": "key", "outcome": "answered"})
    _append(creations, {"token": "i", "kind": "instance", "begun": 2.0})
    other = {"event": "launch_accepted", "instance": "other", "tags": {"dayfly-run": "b" * 32}}
    _append(story.truth, {"event": "ssh_key_added", "id": "key", "name": name}, other)
    assert sight.point == "before POST"
    assert not sight.has_met("launch")
    own = {"event": "launch_accepted", "instance": "own", "tags": {"dayfly-run": _RUN}}
    _append(story.truth, {"event": "fault", "op": "launch", "kind": "hold_answer"}, own)
    assert sight.has_met("launch")
    assert sight.point == "accepted"
    _append(creations, {"token": "i", "id": "own", "outcome": "answered"})
    assert sight.point == "answered"
    story.journal("launched", "machine")
    assert sight.point == "recorded"
    story.journal("job_started")
    story.told.say(f"started 1 {'b' * 32}")
    assert sight.point == "recorded"
    story.told.say(f"started 1 {_RUN}")
    assert sight.point == "running"
    story.told.say(f"finished 1 {_RUN}")
    assert sight.point == "finished"
    story.journal("closing")
    _append(story.truth, {"event": "billed", "instance": "own"})
    assert sight.point == "destroying"
    _append(story.truth, {"event": "ssh_key_deleted", "id": "key", "name": name})
    assert sight.point == "removed"
    (story.directory / "receipt.json").touch()
    assert sight.point == "closed"


def test_where_a_run_on_this_computer_is(tmp_path: Path) -> None:
    """Until its guardian runs there is no machine, whatever has been prepared for it."""
    story = _Story(tmp_path, far=False)
    machine = story.directory / "machine"
    machine.mkdir()
    (machine / "guardian.log").touch()
    assert story.sight.point == "before POST"
    guardian = [sys.executable, "-c", "input()", "loopback.py", _RUN]
    with subprocess.Popen(guardian, stdin=subprocess.PIPE) as process:
        assert story.sight.point == "accepted"
        process.kill()
    story.journal("launched")
    assert story.sight.point == "answered"
    story.journal("machine", "closing")
    assert story.sight.point == "destroying"
    (machine / "guardian.log").unlink()
    machine.rmdir()
    assert story.sight.point == "removed"


def test_a_line_that_is_cut_short_is_passed_over(tmp_path: Path) -> None:
    """And seen when it is whole."""
    file = tmp_path / "lines"
    lines = Lines(file)
    assert lines() == []
    file.write_text('{"event": "one"}\n{"event": "tw')
    assert lines() == [{"event": "one"}]
    with file.open("a") as output:
        output.write('o"}\n')
    assert lines() == [{"event": "one"}, {"event": "two"}]


# -- the stroke, and who owes what after it


def _client(home: Path) -> tuple[Call, subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    return Call(home, 0, process, _RUN), process


def test_nobody_moves_while_it_is_looked_where_a_run_is(tmp_path: Path) -> None:
    """Client and engine stand still, the chosen one dies, the others go on."""
    program = [sys.executable, "-c", "input()", "dayfly.stacks.program", _RUN]
    call, client = _client(tmp_path)
    with client, subprocess.Popen(program, stdin=subprocess.PIPE) as engine:
        seen: list[str] = []

        def look() -> str:
            seen.extend(psutil.Process(each.pid).status() for each in (client, engine))
            return "running"

        stroke = strike(call, "program", look, random.Random(0))
        assert stroke is not None
        assert (stroke.whom, stroke.point) == ("program", "running")
        assert seen == [psutil.STATUS_STOPPED] * 2
        assert engine.wait(10) == -9
        client.communicate(b"\n", timeout=10)
        assert client.returncode == 0


def test_two_die_together(tmp_path: Path) -> None:
    """Both of those that are named."""
    program = [sys.executable, "-c", "input()", "dayfly.stacks.program", _RUN]
    call, client = _client(tmp_path)
    with client, subprocess.Popen(program, stdin=subprocess.PIPE) as engine:
        stroke = strike(call, "client and program", lambda: "running", random.Random(0))
        assert stroke is not None
        assert stroke.whom == "client and program"
        assert (client.wait(10), engine.wait(10)) == (-9, -9)


def test_whoever_is_not_there_dies_in_nobodys_place_and_a_client_that_has_ended_is_no_target(
    tmp_path: Path,
) -> None:
    """Another one is chosen, and nobody where all is over."""
    call, client = _client(tmp_path)
    with client:
        stroke = strike(call, "CLI", lambda: "running", random.Random(0))
        assert stroke is not None
        assert stroke.whom in ("client", "all")
        assert client.wait(10) == -9
        assert strike(call, "client", lambda: "running", random.Random(0)) is None


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ("intent up_started", "closed it"),
        ("intent job_started", "brought its result home"),
        ("intent job_started job_ended result_fetched", "brought its result home"),
        ("intent job_started job_ended result_fetched held", ""),
        ("intent job_started job_ended held attached acknowledged closing", "closed it"),
        ("intent job_started never_started", "closed it"),
    ],
)
def test_what_a_keeper_owes_to_a_run(tmp_path: Path, events: str, what: str) -> None:
    """Until there is a receipt, and after that where its provider has to be asked once more."""
    directory = tmp_path / "runs" / _RUN
    directory.mkdir(parents=True)
    _append(directory / "journal.jsonl", *({"event": event} for event in events.split()))
    assert owed(tmp_path, _RUN) == what
    (directory / "receipt.json").touch()
    assert owed(tmp_path, _RUN) == ""
    (directory / "look_again").touch()
    assert owed(tmp_path, _RUN) == "looked once more"
