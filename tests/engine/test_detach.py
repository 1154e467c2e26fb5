"""A client that lets go: it ends with 0 while its function runs, and the rest is the keeper's, or another process's."""

from __future__ import annotations

import time
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


_TRAINS = """
import os, time
from dayfly import cluster


@cluster(provider="local", environment=[])
def work(flag):
    import os, time

    print("begun", flush=True)
    try:
        open(flag, "w").close()
        while True:
            time.sleep(0.02)
    finally:
        with open(os.path.join(os.environ["DAYFLY_OUTPUT_DIR"], "model"), "w") as file:
            file.write("half")
        print("kept", flush=True)


"""
_LET_GO = """
job = work.submit(os.path.abspath("flag"))
job.detach()
while not os.path.exists("flag"):
    time.sleep(0.01)
"""
_STOPPED = _LET_GO + "job.stop()"
_FOLLOWED_ON = "work(os.path.abspath('flag'))"


@pytest.mark.clients
@pytest.mark.parametrize(
    "how", ["stop of a detached job", "cancel of a detached run", "cancel beside its client"]
)
def test_what_a_cancelled_run_has_got_so_far_comes_home(
    clean_environment: Path, engine: Engine, how: str
) -> None:
    """SIGTERM and the grace first, whoever ends it: its log and its outputs are on this computer, and its machine is gone."""
    ends = {"stop of a detached job": _STOPPED, "cancel of a detached run": _LET_GO}
    with Client(clean_environment, 0, _TRAINS + ends.get(how, _FOLLOWED_ON)) as client:
        if how == "cancel beside its client":
            client.hear("begun")
            while not (clean_environment / "flag").exists():
                time.sleep(0.01)
        else:
            assert client.end() == 0, client.said
        run = client.run
        if how != "stop of a detached job":
            done = dayfly("cancel", "--yes", run)
            assert done.returncode == 0, done.stderr
        wait_until_closed(clean_environment, run)
    assert not alive(run)
    folder = clean_environment / "runs" / run
    assert (folder / "outputs" / "model").read_text() == "half"
    assert (folder / "stdout.log").read_text() == "begun\nkept\n"
    assert journal.read(folder).field("job_ended", "how") == "stopped"
