"""How a program ends that has jobs: 75 where a proof failed, unless it already fails with another code."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

LEAK = (
    "import sys\nfrom dayfly.runtime import at_exit\nfrom dayfly.errors import LeakRisk\n"
    "leak = LeakRisk('not proved', run='r')\nat_exit.remember(leak)\n"
)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 75),
        ("sys.exit(0)", 75),
        ("sys.exit(3)", 3),
        ("raise ValueError(1)", 1),
        ("raise leak", 75),
    ],
)
def test_a_leak_makes_the_exit_code_75_unless_the_program_fails_by_itself(
    ending: str, code: int
) -> None:
    """Exit 0 only when absence is proved."""
    done = subprocess.run(
        [sys.executable, "-c", LEAK + ending], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr


def test_a_program_without_jobs_ends_as_ever() -> None:
    """The decorator alone changes nothing."""
    code = "import sys\nfrom dayfly.runtime import job\nsys.exit(4)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 4


def test_sys_exit_can_be_pickled_before_and_after() -> None:
    """A function that mentions it travels by value."""
    code = (
        LEAK
        + "import pickle, cloudpickle\npickle.dumps(sys.exit)\ncloudpickle.dumps(lambda: sys.exit(3))\nsys.exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 75, done.stderr


def test_an_interrupt_stays_the_reason_whatever_a_teardown_loads() -> None:
    """Python forgets that it was interrupted where code is made from text afterwards, as of a dataclass."""
    code = """
from types import SimpleNamespace
from dayfly.runtime import at_exit

class Job:
    leak, display = None, SimpleNamespace(warning=print)
    def stop(self): pass
    def wait_closed(self): exec("made = 'from text'")

at_exit.open_jobs.add(Job())
raise KeyboardInterrupt
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert b"once more leaves that to the keeper" in done.stdout


def test_a_second_interrupt_stays_the_reason_whatever_goes_on_behind_it() -> None:
    """The job was left to the keeper by then and is open no more, while its thread still works."""
    code = """
import threading
from dayfly.runtime import at_exit

def work():
    exec("made = 'from text'")

threading._register_atexit(work)
raise KeyboardInterrupt
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGINT, done.stderr


def test_open_jobs_may_use_pools_to_their_end() -> None:
    """Though the program's last statement is past, and nobody has loaded what makes pools before."""
    code = """
from dayfly.runtime import at_exit

class Job:
    def wait_closed(self):
        from dayfly.runtime.fleet import side_by_side
        print(side_by_side([lambda: 1, lambda: 2]))
        at_exit.open_jobs.discard(self)

at_exit.open_jobs.add(Job())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n"), done.stderr


def test_a_job_that_a_pool_begins_at_the_end_is_waited_for_too() -> None:
    """What is left in a pool is worked off when the first look at open jobs is over."""
    code = """
import threading, time
from dayfly.runtime import at_exit
from concurrent.futures import ThreadPoolExecutor

class Job:
    def wait_closed(self):
        print("waited for")
        at_exit.open_jobs.discard(self)

def begin():
    while not threading._SHUTTING_DOWN:
        time.sleep(0.01)
    time.sleep(0.2)
    at_exit.open_jobs.add(Job())

ThreadPoolExecutor(1).submit(begin)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "waited for\n"), done.stderr


FAILS = """
from dayfly.runtime.context import Context
from dayfly.runtime.display import Display
from dayfly.runtime.job import Job

job = Job(Context.open().workspace, Display.silent())
job._begin(lambda: job._deliver(lambda: {}["mine"]))
"""
# The program catches the first failure, which is all that it is told.
TWO_FAIL = """
import asyncio, contextlib, dayfly
other = Job(Context.open().workspace, Display.silent())
other._begin(lambda: other._deliver(lambda: {}["mine"]))
job.wait_closed()
other.wait_closed()
with contextlib.suppress(KeyError):
    """


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("", 1, True),
        ("job.wait_closed()", 1, True),
        ("job.wait_closed(); print(job.status())", 1, True),
        ("raise ValueError(1)", 1, True),
        ("job.exception()", 0, False),
        ("job.add_done_callback(lambda done: done.exception())", 0, False),
        ("import dayfly\ndayfly.gather(job, return_exceptions=True)", 0, False),
        (f"{TWO_FAIL}dayfly.gather(job, other)", 0, False),
        (f"{TWO_FAIL}asyncio.run(dayfly.gather.aio(job, other))", 0, False),
    ],
)
def test_a_failure_that_nobody_has_asked_for_is_told_at_the_end(
    ending: str, code: int, told: bool
) -> None:
    """A program that only submits must not end as if all were well."""
    done = subprocess.run(
        [sys.executable, "-c", FAILS + ending],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("nobody has asked for its value:\nKeyError: 'mine'\n" in done.stderr) is told
