"""A machine of one's own: a real OpenSSH server on loopback with a home, a user's key and a known host key, and an `ssh` of this
computer whose configuration knows it by a name."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import ssh_machine
from tests.sshd import Server, sshd

USERS_LINE = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7gRP+QyEyqC1k8vYNVhcpNl6zfAPFpGQDkmtmzJZ6K colleague"
)


@dataclass(frozen=True)
class OwnMachine:
    """The machine and this computer's way to it.

    Attributes:
        name: what `ssh` calls it.
        server: the running server.
        keys: its authorized_keys.
        config: the configuration of this computer's `ssh`.
        known: its known_hosts.
        variables: what the environment has to have for it.
    """

    name: str
    server: Server
    keys: Path
    config: Path
    known: Path
    variables: dict[str, str]

    @property
    def before(self) -> str:
        """What authorized_keys held before any run."""
        return (self.server.home / ".ssh/before").read_text()

    @property
    def is_clean(self) -> bool:
        """Whether the machine holds nothing of any run."""
        return self.keys.read_text() == self.before and not self.left

    @property
    def left(self) -> list[str]:
        """What runs have left in its home."""
        names = ("job-*", "data-*", "deadline-*")
        return sorted(file.name for name in names for file in self.server.home.glob(name))

    def also(self, name: str, *lines: str) -> None:
        """One more host in the configuration."""
        text = "".join(f"  {line}\n" for line in lines)
        # In front: of several values the first counts.
        self.config.write_text(f"Host {name}\n{text}{self.config.read_text()}")


@contextlib.contextmanager
def own_machine(folder: Path, path: str = "", **how: Any) -> Iterator[OwnMachine]:
    """Starts it in `folder`; `how` is as of `tests.sshd.sshd`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path or os.pathsep.join([str(Path(sys.base_prefix) / "bin"), os.defpath])
    with sshd(folder / "machine", path=path, **how) as server:
        keys = server.home / ".ssh" / "authorized_keys"
        keys.parent.mkdir(mode=0o700)
        own = folder / "machine" / "authorized_keys"
        keys.write_text(f"# mine\n{own.read_text()}{USERS_LINE}\n")
        keys.chmod(0o640)
        shutil.copy(keys, keys.parent / "before")
        own.unlink()
        own.symlink_to(keys)
        name = f"box-{secrets.token_hex(4)}"
        yield _reached(folder / "client", name, server, keys)


def _reached(folder: Path, name: str, server: Server, keys: Path) -> OwnMachine:
    (folder / "bin").mkdir(parents=True)
    machine, config, known = server.machine, folder / "config", folder / "known_hosts"
    known.write_text(f"[{machine.host}]:{machine.port} {machine.host_key}\n")
    config.write_text(
        f"Host {name}\n"
        f"  HostName {machine.host}\n"
        f"  Port {machine.port}\n"
        f"  User {machine.user}\n"
        "Host *\n"
        f"  IdentityFile {server.keys.user_key}\n"
        "  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {known}\n"
        "  GlobalKnownHostsFile /dev/null\n"
    )
    # OpenSSH looks for its configuration in the home that the account has, whatever HOME says.
    wrapper = folder / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config}" "$@"\n')
    wrapper.chmod(0o755)
    variables = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    return OwnMachine(name, server, keys, config, known, variables)


@contextlib.contextmanager
def reachable(machine: OwnMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process, and those that it starts, have that `ssh`."""
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)
    ssh_machine.forget_facts()
    yield
    ssh_machine.forget_facts()
