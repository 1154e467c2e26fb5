"""What a dead client left behind is found, adopted and destroyed; what lives is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dayfly.stacks.engine import Engine
from tests import keepers
from tests.engine.client import Client, alive, dayfly, locks, wait_until_closed

pytestmark = pytest.mark.engine


def test_a_create_in_flight_is_adopted_and_destroyed(
    clean_environment: Path, engine: Engine
) -> None:
    """The client dies while the engine creates: the isolated create ends, is recorded, and gc destroys it."""
    with Client(clean_environment, 60) as client:
        run = client.reach("up_started")
        client.die_unkept()
    shown = json.loads(dayfly("gc", "--run", run, "--json").stdout)
    assert [(found["id"], found["status"], found["destroy"]) for found in shown] == [
        (run, "ORPHAN", True)
    ]
    done = dayfly("gc", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (receipt,) = json.loads(done.stdout)
    assert (receipt["run"], receipt["left"], receipt["how"]) == (run, 0, "pulumi")
    assert alive(run) == []
    assert locks(clean_environment) == []
    assert json.loads(dayfly("ps", "--json").stdout) == []


def test_a_create_that_died_with_its_engine_is_adopted_by_tag(
    clean_environment: Path, engine: Engine
) -> None:
    """Client, program, CLI and provider die together: a pending operation and a lock stay, and neither is a hindrance."""
    with Client(clean_environment, 60) as client:
        run = client.reach("launched")
        keepers.started(clean_environment).kill()
        for process in [client.process.pid, *_engine_pids(run)]:
            subprocess.run(["kill", "-9", str(process)], check=False, capture_output=True)
        client.end()
    assert alive(run), "the machine outlived its engine"
    done = dayfly("gc", "--yes")
    assert done.returncode == 0, done.stderr
    assert alive(run) == []
    assert locks(clean_environment) == []
    receipt = json.loads((clean_environment / "runs" / run / "receipt.json").read_text())
    assert receipt["left"] == 0
    assert any("stale lock" in note for note in receipt["notes"])


def _engine_pids(run: str) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DAYFLY_STACK") == run:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_live_run_is_left_alone_and_a_held_one_waits_for_held(
    clean_environment: Path, engine: Engine
) -> None:
    """gc --yes touches neither; two attaches at once are one too many; gc --yes --held ends it."""
    with Client(clean_environment, 60) as client:
        run = client.reach("job_started")
        assert "nothing to destroy" in dayfly("gc", "--yes", "--held").stderr
        busy = dayfly("attach", run)
        assert busy.returncode == 73
        assert str(client.process.pid) in busy.stderr
        client.die_unkept()
    assert "nothing to destroy" in dayfly("gc", "--yes").stderr
    (listed,) = json.loads(dayfly("ps", "--json").stdout)
    assert (listed["id"], listed["status"]) == (run, "HELD")
    assert alive(run)
    done = dayfly("gc", "--yes", "--held")
    assert done.returncode == 0, done.stderr
    wait_until_closed(clean_environment, run)
    assert json.loads(dayfly("ps", "--json").stdout) == []


@pytest.mark.clients
def test_two_attaches_at_once_are_one_too_many(clean_environment: Path, engine: Engine) -> None:
    """One brings the value, the other is told that the run is in hand."""
    with Client(clean_environment, 4) as client:
        run = client.reach("job_started")
        client.hear("begun")
        client.die_unkept()
    command = [sys.executable, "-m", "dayfly.runtime.cli", "attach", run]
    attaches = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ends = [(*attach.communicate(timeout=90), attach.returncode) for attach in attaches]
    winner, loser = sorted(ends, key=lambda end: end[2])
    assert (winner[2], loser[2]) == (0, 73), ends
    assert winner[0].splitlines() == ["begun", "4.0"]
    assert "has run" in loser[1]
    assert dayfly("result", run).stdout == "4.0\n"
    wait_until_closed(clean_environment, run)
