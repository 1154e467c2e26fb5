"""The host key that came with user_data is waited for, replaced at the first login, and good for nothing afterwards."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dayfly.errors import HostKeyMismatch, HostKeyNotRotated
from dayfly.infra import port_map
from dayfly.infra.machine import Machine
from dayfly.infra.run import new_id
from dayfly.runtime import attach, host_key
from dayfly.runtime.agent import ssh_server
from dayfly.runtime.session import Session
from dayfly.stacks import journal
from dayfly.stacks.workspace import Workspace
from tests.sshd import Server, sshd, write_key

BOOTSTRAP = "ssh-ed25519 AAAAbootstrap"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with sshd(tmp_path / "machine") as running:
        yield replace(running, machine=replace(running.machine, host_key_bootstrap=True))


@dataclass
class Record:
    """A journal in memory, at one of whose events the client may die."""

    dies_at: str = ""
    events: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, event: str, host_key: str) -> None:
        self.events.append((event, host_key))
        if event == self.dies_at:
            raise KeyboardInterrupt

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    @property
    def key(self) -> str:
        return self.events[-1][1]


def shown(server: Server) -> str:
    """The public half of what is in the place of the host key."""
    return ssh_server.SshServer._public(str(server.home.parent / "host_key"))


def reload(server: Server) -> None:
    os.kill(int((server.home.parent / "pid").read_text()), signal.SIGHUP)


@pytest.mark.sshd
def test_the_machine_gets_a_key_of_its_own(server: Server) -> None:
    """The session goes on over it, the bootstrap key is accepted no more, and neither half of it is left there."""
    record = Record()
    with Session(server.machine, server.keys) as session:
        host_key.rotate(session, record)
        assert session.facts.agent_pid
        assert session.host_key == record.key
        assert session.machine == replace(
            server.machine, host_key=record.key, host_key_bootstrap=False
        )
    assert record.names == ["host_key_offered", "host_key_rotated"]
    assert record.key == shown(server) != server.machine.host_key
    names = {file.name for file in server.home.parent.glob("host_key*")}
    assert names == {"host_key", "host_key.pub"}
    assert (server.home.parent / "host_key").stat().st_mode & 0o777 == 0o600
    assert (server.home.parent / "host_key.pub").read_text().strip() == record.key
    with (
        pytest.raises(HostKeyMismatch),
        Session(replace(server.machine, host_key_bootstrap=False), server.keys),
    ):
        pass
    with Session(session.machine, server.keys) as another:
        assert another.facts.hostname


@pytest.mark.sshd
def test_the_new_key_is_written_down_before_it_is_shown(server: Server) -> None:
    """A client that dies between the two finds the machine whatever it shows."""
    record = Record(dies_at="host_key_offered")
    with (
        Session(server.machine, server.keys) as session,
        pytest.raises(KeyboardInterrupt),
    ):
        host_key.rotate(session, record)
    assert shown(server) == server.machine.host_key
    offered = record.key
    again = Record()
    machine = replace(server.machine, host_key_offered=offered)
    with Session(machine, server.keys) as session:
        assert session.host_key == server.machine.host_key
        host_key.rotate(session, again)
    assert again.events == [("host_key_offered", offered), ("host_key_rotated", offered)]
    assert shown(server) == offered


@pytest.mark.sshd
def test_a_key_that_was_installed_and_not_confirmed_is_found(server: Server) -> None:
    """The next client is shown the new one, and has only to write down that it is in use."""
    with Session(server.machine, server.keys) as session:
        offered = session.offer_host_key(10)
        assert session.offer_host_key(10) == offered
        session.install_host_key(offered, 10)
        session.install_host_key(offered, 10)
    record = Record()
    with Session(replace(server.machine, host_key_offered=offered), server.keys) as session:
        host_key.rotate(session, record)
    assert record.events == [("host_key_rotated", offered)]


@pytest.mark.sshd
def test_a_machine_without_a_bootstrap_key_is_left_as_it_is(server: Server) -> None:
    """Its key is its own, or its owner's."""
    machine, record = replace(server.machine, host_key_bootstrap=False), Record()
    with Session(machine, server.keys) as session:
        host_key.rotate(session, record)
    assert record.events == []
    assert shown(server) == machine.host_key


@pytest.mark.sshd
def test_a_machine_that_cannot_replace_its_key_is_unfit(tmp_path: Path) -> None:
    """Its own words say why: here it lacks ssh-keygen."""
    for name in ("env", "sh", "python3"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    with sshd(tmp_path / "machine", path=str(tmp_path)) as server:
        machine = replace(server.machine, host_key_bootstrap=True)
        with (
            Session(machine, server.keys) as session,
            pytest.raises(HostKeyNotRotated, match="ssh-keygen cannot be started") as caught,
        ):
            host_key.rotate(session, Record())
    assert caught.value.check == "host key"


@pytest.mark.sshd
def test_the_images_own_key_is_waited_out_and_sent_nothing(server: Server, tmp_path: Path) -> None:
    """Until cloud-init has put the pinned key in place the machine shows another, and nobody logs in to it."""
    folder = server.home.parent
    pinned = (folder / "host_key").read_bytes()
    write_key(folder / "host_key")
    reload(server)

    def apply_user_data() -> None:
        while (folder / "log").read_text().count("Connection from") < 4:
            time.sleep(0.01)
        (folder / "log.before").write_text((folder / "log").read_text())
        (folder / "host_key").write_bytes(pinned)
        reload(server)

    cloud_init = threading.Thread(target=apply_user_data)
    cloud_init.start()
    with Session(server.machine, server.keys, connect_timeout_s=60) as session:
        assert session.host_key == server.machine.host_key
    cloud_init.join()
    before = (folder / "log.before").read_text()
    assert "user" not in before.lower()
    assert "Accepted publickey" in (folder / "log").read_text()


@pytest.mark.sshd
def test_a_key_that_never_comes_is_a_mismatch(server: Server, tmp_path: Path) -> None:
    """The bound is that of connecting."""
    machine = replace(server.machine, host_key=write_key(tmp_path / "other"))
    with (
        pytest.raises(HostKeyMismatch, match="nothing was sent to it"),
        Session(machine, server.keys, connect_timeout_s=0.5),
    ):
        pass
    assert "Accepted" not in server.log.read_text()


# -- what the journal makes of it


def machine(**more: Any) -> Machine:
    return Machine("i-1", "192.0.2.1", 22, "ubuntu", BOOTSTRAP, "cloud", "us", "gpu_1x", **more)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], {"host_key_bootstrap": True}),
        (
            [("host_key_offered", "ssh-ed25519 AAAAnew")],
            {"host_key_bootstrap": True, "host_key_offered": "ssh-ed25519 AAAAnew"},
        ),
        (
            [
                ("host_key_offered", "ssh-ed25519 AAAAnew"),
                ("host_key_rotated", "ssh-ed25519 AAAAnew"),
            ],
            {"host_key": "ssh-ed25519 AAAAnew"},
        ),
    ],
    ids=["before", "between", "after"],
)
def test_whoever_reads_the_journal_pins_what_may_be_shown(
    workspace: Workspace,
    events: list[tuple[str, str]],
    expected: dict[str, Any],
) -> None:
    """Another process that attaches, or `dayfly ssh`."""
    directory = workspace.directory(new_id())
    directory.mkdir()
    journal.append(directory, "machine", **asdict(machine(host_key_bootstrap=True)))
    for name, key in events:
        journal.append(directory, name, host_key=key)
    assert journal.read(directory).machine == replace(machine(), **expected)


def test_the_systems_own_ssh_accepts_the_same_keys(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both while one replaces the other, at the place where an emulated machine listens."""
    ports = tmp_path / "ports"
    ports.write_text('{"i-1": {"host": "127.0.0.1", "port": 4022}}')
    monkeypatch.setenv(port_map.VARIABLE, str(ports))
    directory = workspace.directory(new_id())
    directory.mkdir()
    journal.append(directory, "machine", **asdict(machine(host_key_bootstrap=True)))
    journal.append(directory, "host_key_offered", host_key="ssh-ed25519 AAAAnew")
    command = attach.shell_command(journal.read(directory))
    assert command[-3:] == ["-p", "4022", "ubuntu@127.0.0.1"]
    # By a name of its own: an address with port 22 is none that ssh would look for in brackets.
    alias = f"dayfly-{directory.name}"
    assert f"HostKeyAlias={alias}" in command
    assert (directory / "known_hosts").read_text().splitlines() == [
        f"{alias} {BOOTSTRAP}",
        f"{alias} ssh-ed25519 AAAAnew",
    ]


# -- on the machine


def test_no_copy_of_the_bootstrap_key_is_left(tmp_path: Path) -> None:
    """Its lines are gone from every file, the files can still be read, and other keys are untouched."""
    write_key(tmp_path / "bootstrap")
    write_key(tmp_path / "other")
    private, other = ((tmp_path / name).read_text() for name in ("bootstrap", "other"))
    indented = "".join(f"    {line}\n" for line in private.splitlines())
    cloud = tmp_path / "cloud"
    (cloud / "instance").mkdir(parents=True)
    (cloud / "instance/user-data.txt").write_text(f"ssh_keys:\n  ed25519_private: |\n{indented}")
    (cloud / "instance/obj.pkl").write_bytes(pickle.dumps({"userdata": private, "id": 7}))
    (cloud / "other").write_text(other)
    (cloud / "link").symlink_to("/nowhere")
    assert ssh_server.scrub([str(cloud), str(tmp_path / "absent")], private) == 2
    secret = private.splitlines()[2:-2]
    for file in cloud.rglob("*.*"):
        assert not [line for line in secret if line.encode() in file.read_bytes()]
    left = pickle.loads((cloud / "instance/obj.pkl").read_bytes())
    assert (left["id"], len(left["userdata"])) == (7, len(private))
    assert (cloud / "other").read_text() == other
    assert ssh_server.scrub([str(cloud)], private) == 0
