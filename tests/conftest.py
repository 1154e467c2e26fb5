"""What every test gets: a home of its own, no settings of the developer's, and no way out to a network."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import providers
from dayfly.infra.found import Found
from dayfly.runtime.context import Context
from dayfly.stacks import journal
from dayfly.stacks.engine import Engine
from dayfly.stacks.workspace import Workspace
from tests import namespaces, tried

# What would have a test use an account of the developer's.
_CLEARED = (
    "DAYFLY_",
    "PULUMI_",
    "LAMBDA_",
    "AWS_",
    "AZURE_",
    "ARM_",
    "IDENTITY_",
    "MSI_",
    "GOOGLE_",
    "CLOUDSDK_",
    "HF_",
)


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, one of nohup a hangup, and so would every client that a test starts and interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_unconfigure() -> None:
    """Keepers end after the client that started them; who ended is collected, so that pytest's words are the last."""
    for held in gc.get_objects():
        # By its type: some packages have objects (torch's) that warn of whoever asks them for their class.
        if issubclass(type(held), subprocess.Popen):
            held.poll()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no process has one of these to do when the others have done all of theirs."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Records how a test marked `tried` has ended: it has passed, unless its teardown fails after that."""
    report = yield
    if report.failed or (report.when == "call" and report.passed):
        for marker in item.iter_markers("tried"):
            tried.record(*marker.args, test=item.nodeid, passed=report.passed)
    return report


@pytest.fixture(autouse=True)
def clean_environment(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """DAYFLY_HOME in a new folder, no DAYFLY_* setting, no user file; afterwards no machine of it may be alive."""
    for name in list(os.environ):
        if name.startswith(_CLEARED) and name != "DAYFLY_ENGINE_HOME":
            monkeypatch.delenv(name)
    # By a number pytest would look through all homes before it.
    home = tmp_path_factory.mktemp(f"home-{uuid.uuid4().hex[:12]}", numbered=False)
    home.chmod(0o700)
    monkeypatch.setenv("DAYFLY_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    # The developer's own account, which ~/.aws names.
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(home / "no-aws"))
    if request.node.get_closest_marker("engine"):
        from tests import agents

        # Its machines are this computer, one after the other: only the first of a user's is new to the agent.
        agents.bring(home / "machine-cache")
    yield home
    see_out_jobs()
    see_out_keeper(home)
    if not any(home.glob("runs/*")):
        return
    left = machines_of(home)
    for found in left:
        providers.load("local").terminate(found)
    assert not left, f"the test left machines: {left}"


def machines_of(home: Path) -> list[Found]:
    """The local machines of a home: those of its runs, and of the owner that was made up for it.

    Not those of whoever is the owner by now: a test may have taken its settings back, and another suite, or the
    developer, has machines, too.
    """
    runs = {directory.name for directory in home.glob("runs/*")}
    owner = home / "owner"
    owners = {owner.read_text().strip()} if owner.exists() else set[str]()
    return [
        found
        for found in providers.load("local").inventory(None)
        if found.kind == "instance"
        and (found.run in runs or found.tags.get("dayfly-owner") in owners)
    ]


def see_out_jobs() -> None:
    """A call returns before its machine is gone; the next test begins after."""
    jobs = sys.modules.get("dayfly.runtime.at_exit")
    for job in list(jobs.open_jobs) if jobs else []:
        job.wait_closed()
    if jobs:
        jobs.unheard.clear()  # How the test's own jobs have failed says nothing of the tests.


def see_out_keeper(home: Path) -> None:
    """It outlives its clients, and no test may leave one; nor an act of its, which may still be destroying something."""
    from tests import keepers

    if not (home / "keeper").exists() and not (home / "runs").exists():
        return  # looking through all processes for each of a thousand tests would take a minute
    keepers.end(home)
    left = keepers.acts(home)
    for process in left:
        process.wait(60)


@pytest.fixture(autouse=True)
def loopback_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches out by accident; those marked `network` say so."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if str(address[0]).startswith(("198.51.100.", "203.0.113.", "192.0.2.")):
            # For documentation only: where an emulated machine is said to be, and is not once it has ended.
            raise OSError(errno.EHOSTUNREACH, "nobody is there")
        inside = (
            self.family == socket.AF_UNIX
            or str(address[0]).startswith("127.")
            or address[0] in ("localhost", "::1")
        )
        assert inside, f"a test tried to reach {address}; mark it `network`"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def own_mounts() -> None:
    """Skips a test that mounts something where this computer refuses it, as a plain container does even to root."""
    if reason := namespaces.refusal():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def own_networks() -> None:
    """Skips a test whose machines have networks of their own where this computer refuses it."""
    if reason := namespaces.network_refusal():
        pytest.skip(reason)


@pytest.fixture
def workspace() -> Workspace:
    """The workspace of this test's own home."""
    return Context.open().workspace


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The real Pulumi CLI."""
    from dayfly.stacks import engine as engines

    found = engines.find()
    assert found is not None, "no Pulumi CLI: run `make test`, or `dayfly engine install`"
    return found


@pytest.fixture
def events(workspace: Workspace) -> Any:
    """The names of a run's events, in order."""

    def names(run_id: str) -> list[str]:
        return [event.name for event in journal.read(workspace.directory(run_id)).events]

    return names
