"""The deadline on the machine: systemd's where there is one, and what it does to the machine itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import providers
from dayfly.runtime.agent import deadline, files
from dayfly.runtime.session import Session
from tests.emulators import systemd
from tests.sshd import Server, carriers, end_carriers, sshd

pytestmark = pytest.mark.process

RUN = "ab" * 16


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    systemd.furnish(tmp_path / "systemd")
    return tmp_path / "systemd"


@pytest.fixture
def server(tmp_path: Path, tools: Path) -> Iterator[Server]:
    with sshd(tmp_path / "machine", path=f"{tools}/bin:{os.defpath}") as running:
        yield running


def armed(server: Server) -> dict[str, Any]:
    """What the machine knows of the deadline."""
    file = server.home / f"deadline-{server.keys.run_id}.json"
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def seconds(tools: Path) -> list[float]:
    """When each timer fires."""
    return [float(timer["seconds"]) for timer in systemd.timers(tools)]


@pytest.mark.sshd
def test_a_timer_of_systemd_ends_every_process_of_the_run(server: Server, tools: Path) -> None:
    """Started by nobody of this run, with its home and no more, it ends the agent as well."""
    run = server.keys.run_id
    with Session(server.machine, server.keys, give_up_s=1) as session:
        assert session.arm_deadline(1, timer=True) == "systemd"
        (timer,) = systemd.timers(tools)
        assert timer["unit"].startswith(f"dayfly-deadline-{run}-")
        assert timer["command"].endswith(f"deadline {run}")
        while carriers(run):
            time.sleep(0.02)
    assert not (tools / "powered-off").exists()


@pytest.mark.sshd
def test_only_an_earlier_deadline_needs_another_timer(server: Server, tools: Path) -> None:
    """One that fires too early reads that it has to wait; taking it back would leave a moment without any."""
    with Session(server.machine, server.keys) as session:
        for moved in (3600, 7200, 5400, 600, 900):
            assert session.arm_deadline(moved, timer=True) == "systemd"
    assert seconds(tools) == [3600, 600]
    assert armed(server)["at"] - armed(server)["fires"] == pytest.approx(300, abs=5)


@pytest.mark.sshd
def test_a_machine_without_systemd_has_a_process(server: Server, tools: Path) -> None:
    """A container, say: the tools are there, and nothing answers them."""
    systemd.furnish(tools, "offline")
    with Session(server.machine, server.keys) as session:
        assert session.arm_deadline(3600, timer=True) == "process"
    assert seconds(tools) == []
    assert armed(server)["fires"] is None


@pytest.mark.sshd
def test_somebodys_own_computer_gets_no_timer(server: Server, tools: Path) -> None:
    """Its systemd is not asked, and it is not switched off."""
    with Session(server.machine, server.keys) as session:
        assert session.arm_deadline(3600) == "process"
    assert seconds(tools) == []
    assert armed(server)["power_off"] is False


@pytest.mark.sshd
def test_a_timer_that_cannot_be_had_is_a_process(server: Server, tools: Path) -> None:
    """A user who may not ask systemd has a deadline all the same."""
    (tools / "bin/systemd-run").write_text("#!/bin/sh\nexit 1\n")
    with Session(server.machine, server.keys) as session:
        assert session.arm_deadline(3600, timer=True, power_off=True) == "process"
    assert armed(server)["power_off"] is True


# -- switching off: with nothing on PATH but the stand-in, so that no test ever reaches this computer's own


@pytest.fixture
def home(tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tools / "bin"))
    yield home
    end_carriers(RUN)


@pytest.mark.skipif(os.getuid() != 0, reason="another user would need a stand-in for sudo too")
def test_a_machine_is_switched_off_the_more_rudely_the_longer_it_takes(
    home: Path, tools: Path
) -> None:
    """Asked, then told; a machine that is gone by then does not come to the second."""
    deadline._power_off(grace_s=1.0)
    assert (tools / "powered-off").read_text() == "poweroff\npoweroff --force\n"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_machine_is_switched_off_only_where_that_was_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    """After every process of the run has ended."""
    done: list[str] = []
    monkeypatch.setattr(deadline, "_power_off", lambda: done.append("off"))
    record = {"at": files.boot_clock_s() - 1, "timer": True, "power_off": wanted, "fires": None}
    (home / f"deadline-{RUN}.json").write_text(json.dumps(record))
    deadline.deadline(RUN)
    assert done == (["off"] if wanted else [])


def test_what_a_provider_declares_is_what_its_plan_says() -> None:
    """One line on what ends the machine, and a machine's own deadline that goes no further than that."""
    for name in providers.names():
        limits = providers.load(name).limits
        assert "\n" not in limits.if_this_computer_dies
        assert limits.deadline_action in ("end_processes", "poweroff")
    assert providers.load("local").limits.deadline_action == "end_processes"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can leave files to others")
def test_what_root_leaves_in_a_users_folder_is_the_users(tmp_path: Path) -> None:
    """The timer's process is root's, and what it asks of the job its user must be able to read."""
    os.chown(tmp_path, 12345, 12345)
    files.write_file(str(tmp_path / "stop"), b"deadline")
    assert (tmp_path / "stop").stat().st_uid == 12345
