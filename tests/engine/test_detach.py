"""A client that lets go: it ends with 0 while its function runs, and the rest is the keeper's, or another process's."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from tests.engine.client import Client, alive, dayfly, wait_until_closed

pytestmark = [pytest.mark.engine, pytest.mark.sshd]
_LETS_GO = """
import asyncio, os, sys
from dayfly import cluster


@cluster(provider="local", environment=[])
def work(flag, value):
    import os, time

    print("begun", flush=True)
    while not os.path.exists(flag):
        time.sleep(0.02)
    print("ended", flush=True)
    return [value] * 3


async def main():
    job = await work.submit.aio(os.path.abspath("flag"), float(sys.argv[1]))
    print("detached", await job.detach.aio(), job.detached, flush=True)


asyncio.run(main())
"""
_FOLLOWED = """
def count(flag):
    import os, time

    print("begun", flush=True)
    while not os.path.exists(flag):
        time.sleep(0.02)
    print("ended", flush=True)
    return "value"
"""


def test_the_keeper_finishes_what_its_client_has_let_go_of(
    clean_environment: Path, engine: Engine
) -> None:
    """Log and value come home when the function ends, and the machine ends then: its result is held nowhere else for an
    hour."""
    with Client(clean_environment, 3, _LETS_GO) as client:
        assert client.end() == 0, client.said
        run = client.run
        assert f"detached {run} True" in client.said
        assert f"dayfly attach {run[:12]}" in client.said
    assert "job_ended" not in client.events
    (clean_environment / "flag").touch()
    wait_until_closed(clean_environment, run)
    history = journal.read(clean_environment / "runs" / run)
    story = ["job_started", "detached", "job_ended", "held", "closing", "closed"]
    assert [event.name for event in history.events if event.name in story] == story
    attached = dayfly("attach", run)
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout == "begun\nended\n[3.0, 3.0, 3.0]\n"


def test_a_detached_run_is_taken_in_hand_by_another_process(
    clean_environment: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command prints the run's id and nothing else on stdout; `attach` follows it to its end, and destroys."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting.py").write_text(_FOLLOWED)
    flag = tmp_path / "flag"
    command = [
        "run",
        "--detach",
        "--provider",
        "local",
        "--environment",
        str(tmp_path / "none.txt"),
    ]
    (tmp_path / "none.txt").touch()
    done = dayfly(*command, "counting:count", str(flag))
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    assert alive(run), "its machine is up"
    assert "let go of it" in dayfly("ps", "--json").stdout
    flag.touch()
    attached = dayfly("attach", run)
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout == "begun\nended\n'value'\n"
    wait_until_closed(clean_environment, run)
