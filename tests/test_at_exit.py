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
