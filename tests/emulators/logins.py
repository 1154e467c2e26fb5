"""Plain SSH logins to emulated instances, with a host key that was injected through their user data."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko

from tests.emulators.lambda_cloud import Emulator
from tests.emulators.until import until
from tests.sshd import write_key


class HostKey:
    """A host key to be injected, and the user data that injects it."""

    def __init__(self, folder: Path) -> None:
        self.public = write_key(folder / "host_key")
        self.private = (folder / "host_key").read_text()

    @property
    def secret(self) -> bytes:
        """A line of the private half that no other file has."""
        return self.private.splitlines()[3].encode()

    def user_data(self, **more: Any) -> str:
        """As a client would send it: JSON is YAML."""
        config = {
            "ssh_deletekeys": True,
            "ssh_genkeytypes": [],
            "ssh_keys": {"ed25519_private": self.private, "ed25519_public": self.public},
        }
        return f"#cloud-config\n{json.dumps(config | more)}\n"


def booted(cloud: Emulator, id: str) -> bool:
    """Its user data is applied."""
    return id in [each["instance"] for each in cloud.events("user_data_applied")]


def shown_key(cloud: Emulator, id: str) -> str:
    """The host key that a client sees now, "" where none answers."""
    try:
        with unauthenticated(cloud, id) as transport:
            transport.start_client(timeout=10)
            key = transport.get_remote_server_key()
            return f"{key.get_name()} {key.get_base64()}"
    except (OSError, paramiko.SSHException, EOFError):
        return ""


@contextlib.contextmanager
def unauthenticated(cloud: Emulator, id: str) -> Iterator[paramiko.Transport]:
    """Not yet connected; paramiko itself would leave a refused socket open."""
    with (
        socket.create_connection(("127.0.0.1", port(cloud, id))) as connection,
        contextlib.closing(paramiko.Transport(connection)) as transport,
    ):
        transport.get_security_options().key_types = ["ssh-ed25519"]
        yield transport


def port(cloud: Emulator, id: str) -> int:
    """Where the map says that it is."""
    entry = json.loads(cloud.port_map.read_text())[id]
    assert entry["host"] == "127.0.0.1"
    return int(entry["port"])


@contextlib.contextmanager
def login(cloud: Emulator, id: str, key: Path, host_key: HostKey) -> Iterator[paramiko.Transport]:
    """A session with a pinned host key."""
    until(lambda: booted(cloud, id) and shown_key(cloud, id) == host_key.public)
    with unauthenticated(cloud, id) as transport:
        pkey = paramiko.Ed25519Key.from_private_key_file(str(key))
        transport.connect(username="ubuntu", pkey=pkey)
        yield transport


def run(transport: paramiko.Transport, command: str) -> str:
    """What a command prints, both ways."""
    channel = transport.open_session(timeout=20)
    channel.set_combine_stderr(True)
    channel.exec_command(command)
    return channel.makefile().read().decode().strip()


def sleeping(transport: paramiko.Transport) -> list[str]:
    """The sleeps that go on there."""
    return run(transport, "ps -C sleep -o args=").splitlines()
