"""A plain OpenSSH server on loopback with its own keys, and the system's client for it: what peers are made of."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_READY_TIMEOUT_S = 15.0
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")


def make_keys(folder: Path) -> None:
    """Makes `host_key` and `user_key` in the folder."""
    for name in ("host_key", "user_key"):
        command = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "",
            "-f",
            str(folder / name),
        ]
        subprocess.run(command, check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")


def start(folder: Path) -> tuple[int, int]:
    """Starts `sshd -D` with the folder's keys, in a session of its own.

    Returns:
        Its process id and its port.
    """
    if os.getuid() == 0:
        place = Path("/run/sshd" if sys.platform == "linux" else "/var/empty")
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    (folder / "sshd_config").write_text(_config(folder, port))
    program = shutil.which("sshd", path=os.pathsep.join([*_SBIN, os.environ.get("PATH", "")]))
    # The log by file: a pipe of ours would keep whoever waits for its end waiting.
    server = subprocess.Popen(
        [program or "sshd", "-D", "-f", folder / "sshd_config", "-E", folder / "sshd.log"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return server.pid, port


def wait_for_banner(port: int) -> str:
    """The server's first words, as soon as it says them.

    Raises:
        TimeoutError: it has not in 15 s.
    """
    until = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < until:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=2) as connection,
        ):
            return connection.recv(255).decode().strip()
        time.sleep(0.01)
    raise TimeoutError(f"no sshd on port {port}")


def stop(pid: int) -> None:
    """Ends a server; gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """A server for as long as the block lasts; gives its port."""
    folder.mkdir()
    make_keys(folder)
    pid, port = start(folder)
    try:
        wait_for_banner(port)
        yield port
    finally:
        stop(pid)
        os.waitpid(pid, 0)


def client(folder: Path, port: int, command: str) -> Sequence[str]:
    """The system client's command line, host key pinned and no setting of the user's read."""
    known = folder / "known_hosts"
    host_key = (folder / "host_key.pub").read_text()
    known.write_text(f"[127.0.0.1]:{port} {host_key}")
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
    options += [f"UserKnownHostsFile={known}", "LogLevel=ERROR"]
    flags = [flag for option in options for flag in ("-o", option)]
    address = ["-p", str(port), f"{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1"]
    return ["ssh", "-F", "none", "-i", str(folder / "user_key"), *flags, *address, command]


def _config(folder: Path, port: int) -> str:
    return f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
StrictModes no
UsePAM no
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PrintMotd no
PidFile none
LogLevel ERROR
SetEnv "PATH={os.environ.get("PATH", os.defpath)}"
"""
