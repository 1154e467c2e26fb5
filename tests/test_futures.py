"""A Job keeps the contract of a Future: CPython's own tests of it are held against Jobs."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from dayfly.runtime.display import Display
from dayfly.runtime.job import Job
from dayfly.stacks.workspace import Workspace
from tests import cpython

pytestmark = pytest.mark.process

_NOT_HERE = "no Python 3.11 or newer on this computer has brought CPython's tests (test.test_concurrent_futures)"
# At most five, each with its reason.
SKIPPED: dict[str, str] = {}
_STATES = ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "EXCEPTION", "SUCCESSFUL")


class Jobs(concurrent.futures.Executor):
    """Jobs whose work is done in this process: what is tried here is the Job, not the machine."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._begun: list[Job[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Runs it in the thread in which a Job attends to its machine, and delivers as a Job delivers."""
        job = Job[Any](self._workspace, Display.silent())
        job._begin(lambda: job._deliver(functools.partial(fn, *args, **kwargs)))
        self._begun.append(job)
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Sees every job out."""
        for job in self._begun:
            job.wait_closed()
        self._begun.clear()


class NamedJob(unittest.TestCase):
    """The same assertions, of objects whose representation begins with the name of their class."""

    def assertRegex(self, text: Any, expected: Any, msg: Any = None) -> None:
        super().assertRegex(text, expected.replace("<Future at", "<Job at"), msg)

    def assertRaisesRegex(  # type: ignore[override]  # the overloads say the same
        self, kind: Any, expected: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return super().assertRaisesRegex(
            kind, expected.replace("<Future at", "<Job at"), *args, **kwargs
        )


@pytest.fixture
def tests(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything in CPython's modules by its name, with Jobs where they make Futures."""
    modules = cpython.modules()
    if not modules:
        pytest.skip(_NOT_HERE)

    def new() -> Job[Any]:
        return Job(workspace, Display.silent())

    for module in modules:
        monkeypatch.setattr(module, "Future", new, raising=False)
    for name, job in _jobs_in_every_state(modules[0]).items():
        for module in modules:
            monkeypatch.setattr(module, name, job, raising=False)
    return {name: value for module in modules for name, value in vars(module).items()}


def _jobs_in_every_state(module: ModuleType) -> dict[str, Job[Any]]:
    made = {f"{state}_FUTURE": module.create_future(state=state) for state in _STATES[:4]}
    made["EXCEPTION_FUTURE"] = module.create_future(state="FINISHED", exception=OSError())
    made["SUCCESSFUL_FUTURE"] = module.create_future(state="FINISHED", result=42)
    return made


def _case(tests: dict[str, Any], name: str, workspace: Workspace) -> type[unittest.TestCase]:
    """One class of CPython's tests, its executor ours."""
    bases = {
        "FutureTests": (NamedJob, tests["FutureTests"]),
        "WaitTests": (tests["ThreadPoolWaitTests"],),
        "AsCompletedTests": (
            tests["AsCompletedTests"],
            tests["ThreadPoolMixin"],
            tests["BaseTestCase"],
        ),
    }[name]
    executor = staticmethod(lambda max_workers: Jobs(workspace))
    return type(f"Job{name}", bases, {"executor_type": executor})


@pytest.mark.parametrize(
    ("name", "least"), [("FutureTests", 18), ("WaitTests", 9), ("AsCompletedTests", 5)]
)
def test_a_job_passes_cpython_s_own_tests(
    tests: dict[str, Any],
    name: str,
    least: int,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them, but for those that are skipped above."""
    # pytest's own handlers would keep what a Future says of a callback that raises from stderr.
    monkeypatch.setattr(logging.getLogger("concurrent.futures"), "propagate", False)
    case = _case(tests, name, workspace)
    names = unittest.defaultTestLoader.getTestCaseNames(case)
    assert len(names) >= least, names
    suite = unittest.TestSuite(case(each) for each in names if f"{name}.{each}" not in SKIPPED)
    # What another test of this process has left is not what these leave.
    tests["support"].reap_children()
    tests["support"].environment_altered = False
    told = suite.run(unittest.TestResult())
    failed = [*told.errors, *told.failures, *told.skipped, *told.unexpectedSuccesses]
    assert not failed, "\n".join(str(each) for each in failed)
    assert told.testsRun == len(names) - sum(skipped.startswith(f"{name}.") for skipped in SKIPPED)
    assert not tests["support"].environment_altered


def test_at_most_five_are_skipped_and_each_is_there(tests: dict[str, Any]) -> None:
    """A skip of a test that CPython has renamed would hide that it fails."""
    assert len(SKIPPED) <= 5
    for name, reason in SKIPPED.items():
        kind, _, test = name.partition(".")
        assert hasattr(tests[kind], test), name
        assert reason
