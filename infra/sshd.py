"""The OpenSSH server of a local machine: where it is, and the folder that it serves."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dayfly.errors import ConfigurationError

# A property of the computer's network, which the machine shares: without them an index behind a proxy
# or a company's certificate cannot be reached.
_NETWORK_VARIABLES = (
    r"(?i)^(https?_proxy|no_proxy|all_proxy|ssl_cert_(file|dir)|requests_ca_bundle|curl_ca_bundle)$"
)
# macOS brings its own.
_INSTALL = {
    "apt-get": "apt-get install openssh-server",
    "dnf": "dnf install openssh-server",
    "yum": "yum install openssh-server",
    "zypper": "zypper install openssh-server",
    "pacman": "pacman -S openssh",
    "apk": "apk add openssh-server",
}


def path() -> str:
    """The OpenSSH server of this computer.

    Raises:
        ConfigurationError: there is none; the message has the command that installs it.
    """
    found = shutil.which(
        "sshd",
        path=os.pathsep.join(
            ["/usr/sbin", "/usr/local/sbin", "/usr/libexec", os.environ.get("PATH", "")]
        ),
    )
    if found:
        return found
    fix = next(
        (f"sudo {command}" for tool, command in _INSTALL.items() if shutil.which(tool)),
        "install OpenSSH's server with your package manager",
    )
    raise ConfigurationError(f'provider="local" needs sshd and finds none: {fix}')


def account() -> str:
    """The account that this process runs under, which is the one that its sshd lets in.

    Not from LOGNAME or USER: `su` leaves those of another account.

    Raises:
        ConfigurationError: this process's user has no account, so that nobody can log in as it.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise ConfigurationError(
            f'provider="local" needs an account to log in to, and uid {os.getuid()} has none in /etc/passwd: '
            "add one, or run as a user that has one"
        ) from None


def furnish(directory: Path, props: Mapping[str, Any]) -> None:
    """Makes the machine's disk: its home and the configuration of its SSH server, for this user only."""
    for folder in (directory, directory / "home"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid() or directory.stat().st_mode & 0o077:
        # StrictModes is off, because sshd refuses keys below a temporary folder; this is the check in its place.
        raise ConfigurationError(f"{directory} must belong to you alone: chmod 700 {directory}")
    shutil.copy(props["host_key_file"], directory / "host_key")
    (directory / "host_key").chmod(0o600)
    (directory / "authorized_keys").write_text(props["authorized_key"] + "\n")
    (directory / "sshd_config").write_text("\n".join(_sshd_config(directory, props)) + "\n")
    if os.getuid() == 0:
        separation = Path("/run/sshd" if sys.platform == "linux" else "/var/empty")
        if not separation.exists():
            separation.mkdir(parents=True)
            separation.chmod(0o755)


def _sshd_config(directory: Path, props: Mapping[str, Any]) -> Iterator[str]:
    yield f'HostKey "{directory}/host_key"'
    # Of these two only this one knows placeholders.
    yield f'AuthorizedKeysFile "{str(directory).replace("%", "%%")}/authorized_keys"'
    yield f"AllowUsers {account()}"
    yield "StrictModes no"
    # An ordinary user cannot read /etc/shadow, and without PAM sshd then takes every account for locked.
    yield "UsePAM no" if os.getuid() == 0 else "UsePAM yes"
    yield "AuthenticationMethods publickey"
    yield "PermitRootLogin prohibit-password"
    yield "PrintMotd no"
    yield "PidFile none"
    yield "LogLevel ERROR"
    yield "Subsystem sftp internal-sftp"
    # A connection whose client is gone must not outlive it by more than a minute.
    yield "ClientAliveInterval 15"
    yield "ClientAliveCountMax 4"
    variables = _variables(directory, props)
    yield "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items())


def _variables(directory: Path, props: Mapping[str, Any]) -> dict[str, str]:
    """What a login sees: its own home, this computer's interpreters and its way to the network."""
    # The interpreter that a virtual environment stands on, not the environment: the machine is bare.
    own = {str(Path(sys.prefix) / "bin")} if sys.prefix != sys.base_prefix else set()
    path = [
        str(Path(sys.base_prefix) / "bin"),
        *(part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part not in own),
    ]
    network = {
        name: value
        for name, value in os.environ.items()
        if re.match(_NETWORK_VARIABLES, name) and '"' not in value
    }
    return {
        "HOME": str(directory / "home"),
        "PATH": os.pathsep.join(path),
        "DAYFLY_RUN": props["run"],
        "DAYFLY_OWNER": props["owner"],
        **network,
    }
