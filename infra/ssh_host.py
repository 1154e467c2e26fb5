"""A host as the user's own OpenSSH client takes it, and where that client's configuration says that it is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import NamedTuple

from dayfly.errors import ConfigurationError, SpecError
from dayfly.infra import ssh_environment

# What begins with a hyphen would be an option, and what has a slash or a space in it is no name of a host.
_NAME = (
    r"(?:(?P<user>[A-Za-z0-9_.][A-Za-z0-9_.@\\-]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.]+)?\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
EXAMPLE = 'host="gpu-box" of your ~/.ssh/config, or host="me@10.0.0.5:2222"'
_RESOLVE_S = 20.0
# Nobody is there to answer a question, and no terminal may be taken from whoever is.
BATCH = {"BatchMode": "yes", "ConnectTimeout": "15"}


class SshHost(NamedTuple):
    """What stands behind `ssh` on a command line.

    Attributes:
        name: as it was written.
        host: alias, name or address alone.
        user: login name, "" where the configuration says it.
        port: 0 where the configuration says it.
    """

    name: str
    host: str
    user: str
    port: int

    @classmethod
    def parse(cls, name: str) -> SshHost:
        """From "gpu-box", "me@10.0.0.5:2222" or "[fe80::1]:22".

        Raises:
            SpecError: it is none of these.
        """
        match = re.fullmatch(_NAME, name)
        if match is None or int(match["port"] or 22) not in range(1, 65536):
            raise SpecError(f"host={name!r} is no host that `ssh` could be given: write {EXAMPLE}")
        host = match["host"].strip("[]")
        return cls(name, host, match["user"] or "", int(match["port"] or 0))

    @property
    def arguments(self) -> tuple[str, ...]:
        """For a command line of ssh."""
        user = ("-l", self.user) if self.user else ()
        port = ("-p", str(self.port)) if self.port else ()
        return (*user, *port, "--", self.host)


class Place(NamedTuple):
    """Where a host is.

    Attributes:
        host: its name or address.
        port: of its SSH server.
        user: login name.
        proxy: command whose stdin and stdout are a connection to that server, "" where it is reached directly.
        known_as: under which its host key is known.
        known_in: files that may have it.
    """

    host: str
    port: int
    user: str
    proxy: str
    known_as: str
    known_in: tuple[str, ...]


def resolve(host: SshHost) -> Place:
    """What `ssh -G` tells of a host; nothing is connected to.

    Raises:
        ConfigurationError: there is no ssh, its configuration has a fault, or the host is reached in a way that a session
            cannot go.
    """
    said = _configuration(host)
    alias, port = said.get("hostkeyalias", ""), int(said["port"])
    known_as = alias or said["hostname"]
    known = f"{said.get('userknownhostsfile', '')} {said.get('globalknownhostsfile', '')}"
    return Place(
        said["hostname"],
        port,
        said["user"],
        _proxy(host, said),
        known_as if port == 22 or alias else f"[{known_as}]:{port}",
        tuple(os.path.expanduser(file) for file in shlex.split(known)),  # noqa: PTH111
    )


def _configuration(host: SshHost) -> dict[str, str]:
    try:
        done = subprocess.run(
            ["ssh", "-G", *host.arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RESOLVE_S,
            check=False,
            env=ssh_environment.of_ssh(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"`ssh -G {host.name}` does not tell where that is: {error}"
        ) from error
    if done.returncode:
        raise ConfigurationError(f"`ssh -G {host.name}` failed: {done.stderr.strip()[-500:]}")
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    # Of what may be there several times nothing is looked at here.
    return {name: value for name, _, value in pairs}


def _proxy(host: SshHost, said: dict[str, str]) -> str:
    """The command of the configuration's ProxyCommand, or of its ProxyJump, as one line for a shell."""
    command, jump = said.get("proxycommand", "none"), said.get("proxyjump", "none")
    if said.get("proxyusefdpass") == "yes":
        raise ConfigurationError(
            f"host={host.name!r} has ProxyUseFdpass, which a session cannot use: configure ProxyJump, or a ProxyCommand"
            " without it"
        )
    if command != "none":
        return _expanded(host, command, said)
    if jump == "none":
        return ""
    *through, last = jump.split(",")
    options = [part for name, value in BATCH.items() for part in ("-o", f"{name}={value}")]
    jumps = ["-J", ",".join(through)] if through else []
    place = f"[{said['hostname']}]:{said['port']}"
    # The jump's own name comes last, behind "--": it was parsed, so that it is no option.
    gate = SshHost.parse(last.removeprefix("ssh://").rstrip("/"))
    return shlex.join(["ssh", *options, *jumps, "-W", place, *gate.arguments])


def _expanded(host: SshHost, command: str, said: dict[str, str]) -> str:
    known = {
        "%%": "%",
        "%h": said["hostname"],
        "%n": host.host,
        "%p": said["port"],
        "%r": said["user"],
    }

    def value(found: re.Match[str]) -> str:
        if found[0] not in known:
            raise ConfigurationError(
                f"host={host.name!r}: its ProxyCommand has {found[0]!r}, and of its signs only {', '.join(known)} are"
                " known here; write what it stands for, or configure ProxyJump"
            )
        return known[found[0]]

    return re.sub(r"%.?", value, command)
