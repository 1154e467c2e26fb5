"""What an instance finds on its disk at the first boot: its account, its SSH server's configuration, its tools."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ecdsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.emulators.machines.box import PATH

_COMMANDS = Path(__file__).with_name("commands")
# A property of this computer's network, which the instance shares: without them a package index behind a proxy
# or a company's certificate cannot be reached.
_NETWORK = re.compile(
    r"^(https?_proxy|no_proxy|all_proxy|ssl_cert_(file|dir)|requests_ca_bundle|curl_ca_bundle)$",
    re.I,
)
TOOLS = "/usr/local/tools"


def environment() -> dict[str, str]:
    """What every login and every command of the instance sees."""
    network = {
        name: value
        for name, value in os.environ.items()
        if _NETWORK.match(name) and '"' not in value
    }
    own = str(Path(sys.base_prefix) / "bin")
    return {
        "PATH": f"{TOOLS}/bin:{own}:{PATH}",
        "LD_LIBRARY_PATH": f"{TOOLS}/lib",
        **network,
    }


def furnish(
    disk: Path,
    *,
    hostname: str,
    host: str,
    port: int,
    authorized_key: str,
    mounts: Sequence[tuple[Path, str]],
) -> None:
    """Makes the disk.

    Args:
        disk: an empty folder.
        hostname: of the instance.
        host, port: of this computer, where its SSH server is to listen.
        authorized_key: who may log in.
        mounts: folders of this computer and where the instance has them.
    """
    for name in (
        "root",
        "tmp",
        "home/.ssh",
        "upper/etc/ssh",
        "upper/usr/bin",
        "upper/usr/sbin",
        "work",
    ):
        (disk / name).mkdir(parents=True)
    for name in ("bin", "lib"):
        (disk / "tools" / name).mkdir(parents=True)
    (disk / "tmp").chmod(0o1777)
    (disk / "home").chmod(0o755)
    (disk / "home/.ssh").chmod(0o700)
    _put(disk / "home/.ssh/authorized_keys", authorized_key + "\n", 0o600)
    # Mounted and not laid over, since what they show may be changed while the instance runs.
    shown = [(disk / "tools", TOOLS), *mounts]
    _put(disk / "mounts", "".join(f"{source}\t{target}\n" for source, target in shown))
    _account(disk / "upper/etc", hostname)
    _ssh_server(disk / "upper/etc/ssh", host, port, environment())
    for command in _COMMANDS.iterdir():
        for folder in ("bin", "sbin"):
            _put(disk / "upper/usr" / folder / command.name, command.read_text(), 0o755)


def _account(etc: Path, hostname: str) -> None:
    """`ubuntu` is another name of root, so that it can do what passwordless sudo lets it do on the real thing."""
    others = Path("/etc/passwd").read_text().splitlines(keepends=True)
    kept = "".join(line for line in others if not line.startswith("ubuntu:"))
    _put(etc / "passwd", f"ubuntu:x:0:0:Ubuntu:/home/ubuntu:/bin/bash\n{kept}")
    _put(etc / "hostname", f"{hostname}\n")
    _put(etc / "hosts", f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost\n")
    # It may be a link into /run, which the instance has for itself.
    resolver = Path("/etc/resolv.conf")
    if resolver.exists():
        _put(etc / "resolv.conf", resolver.read_text())


def _ssh_server(folder: Path, host: str, port: int, variables: Mapping[str, str]) -> None:
    # Hides this computer's own folder, keys and all, instead of adding to it.
    os.setxattr(folder, "trusted.overlay.opaque", b"y")
    for kind, key in (
        ("ed25519", Ed25519PrivateKey.generate()),
        ("ecdsa", generate_ecdsa(SECP256R1())),
    ):
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        _put(folder / f"ssh_host_{kind}_key", private.decode(), 0o600)
        _put(folder / f"ssh_host_{kind}_key.pub", public.decode() + "\n")
    setting = " ".join(f'"{name}={value}"' for name, value in variables.items())
    _put(folder / "sshd_config", _SSHD_CONFIG.format(host=host, port=port, variables=setting))


_SSHD_CONFIG = """\
Port {port}
ListenAddress {host}
AllowUsers ubuntu
AuthenticationMethods publickey
# The account is root by another name.
PermitRootLogin prohibit-password
UsePAM no
PrintMotd no
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
SetEnv {variables}
"""


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)
