"""The command line with the real engine and a real sshd: run, interrupt, attach, log in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace

pytestmark = [pytest.mark.engine, pytest.mark.sshd]
COMMAND = [sys.executable, "-m", "dayfly.runtime.cli"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with a module and a script."""
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "words.py").write_text("HELLO = 'hello from a neighbour'\n")
    (tmp_path / "job.py").write_text(
        "import sys, words\nprint(words.HELLO, __name__, sys.argv[1:])\nsys.exit(int(sys.argv[1]))\n"
    )
    (tmp_path / "jobs.py").write_text(
        "import sys, time\n"
        "def add(a, b=1):\n    print('adding')\n    return {'sum': a + b}\n"
        "def fail():\n    raise ValueError('no such luck')\n"
        "def slow(seconds):\n"
        "    for n in range(int(seconds * 10)):\n"
        "        print('tick', n, flush=True)\n        time.sleep(0.1)\n"
        "    return 'slow'\n"
    )
    return tmp_path


def dayfly(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=project,
        stdin=subprocess.DEVNULL,
        timeout=180,
    )


def started(project: Path, seconds: int) -> subprocess.Popen[str]:
    """A client whose function is under way."""
    client = subprocess.Popen(
        [*COMMAND, "run", "jobs:slow", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "tick 0\n"
    return client


def only_run(workspace: Workspace) -> journal.History:
    """The one run of this home."""
    (found,) = journal.histories(workspace.runs, closed=True)
    return found


def test_a_function_gives_its_value_and_the_story_stays(
    project: Path, workspace: Workspace
) -> None:
    """With --json stdout is the value alone; plan, steps, output and receipt are on stderr, in this order."""
    done = dayfly(project, "run", "--json", "jobs:add", "3", "b=0.5")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sum": 3.5}
    marks = ["plan of run", "worst case", "provision ", "connect ", "adding", "run ", "receipt "]
    places = [done.stderr.index(f"\n{mark}" if mark.endswith(" ") else mark) for mark in marks]
    assert places == sorted(places), done.stderr
    run_id = only_run(workspace).id
    assert dayfly(project, "result", run_id[:10]).stdout == "{'sum': 3.5}\n"
    assert dayfly(project, "logs", run_id).stdout == "adding\n"
    assert json.loads(dayfly(project, "show", run_id, "--json").stdout)["receipt"]["left"] == 0
    assert dayfly(project, "ps", "--json").stdout == "[]\n"


def test_a_script_and_an_exception_end_with_their_own_codes(project: Path) -> None:
    """A script's code is passed on; an exception is shown with the lines of the machine's traceback."""
    script = dayfly(project, "run", "job.py", "3", "--flag")
    assert script.returncode == 3, script.stderr
    assert script.stdout == "hello from a neighbour __main__ ['3', '--flag']\n"
    failed = dayfly(project, "run", "jobs:fail")
    assert failed.returncode == 1
    assert "raise ValueError('no such luck')" in failed.stderr
    assert "runtime/job.py" not in failed.stderr


def test_a_plan_creates_nothing(project: Path, workspace: Workspace) -> None:
    """Of a function, and of the machine alone."""
    plan = json.loads(dayfly(project, "plan", "--json", "jobs:add", "1").stdout)
    assert plan["function"] == "jobs:add"
    assert [resource["name"] for resource in plan["resources"]] == ["instance", "ready"]
    assert plan["worst_case_usd"] == 0.0
    assert "max_runtime            2 h" in dayfly(project, "plan", "--time", "2h").stdout
    assert journal.histories(workspace.runs, closed=True) == []


def test_an_interrupt_cleans_up_and_says_so(project: Path, workspace: Workspace) -> None:
    """Exit code 130, after the proof."""
    with started(project, 60) as client:
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=120)
    assert client.returncode == 130, err
    assert "interrupted: stopping" in err
    assert "0 left" in err
    assert only_run(workspace).closed


@pytest.mark.clients
def test_a_run_whose_client_was_killed_is_held_and_taken_in_hand_again(
    project: Path, workspace: Workspace
) -> None:
    """`ps` lists it, `ssh` reaches it, gc leaves it alone, and `attach` brings log and value."""
    with started(project, 4) as client:
        client.kill()
    run_id = only_run(workspace).id
    (listed,) = json.loads(dayfly(project, "ps", "--json").stdout)
    assert (listed["id"], listed["status"]) == (run_id, "HELD")
    login = dayfly(project, "ssh", run_id[:8], "--", "echo $DAYFLY_RUN")
    assert login.stdout == f"{run_id}\n", login.stderr
    assert "leave" in dayfly(project, "gc", "--yes").stdout + dayfly(project, "gc").stdout
    attached = dayfly(project, "attach", run_id[:8])
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout == "".join(f"tick {n}\n" for n in range(40)) + "'slow'\n"
    assert only_run(workspace).closed
    # Nothing is open any more, after which the keeper ends by itself.
    until = time.monotonic() + 60
    while (told := json.loads(dayfly(project, "keeper", "status", "--json").stdout)) is not None:
        if told["runs"] == []:
            break
        assert time.monotonic() < until, told
