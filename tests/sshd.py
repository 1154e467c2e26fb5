"""A real OpenSSH server on loopback with its own keys, home and port, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dayfly.infra.machine import Machine
from dayfly.runtime.records import Keys
from tests import agents, namespaces


@dataclass(frozen=True)
class Server:
    """The running server: the machine that it is, the keys that open it, the home that its logins get, its process."""

    machine: Machine
    keys: Keys
    home: Path
    log: Path
    pid: int

    def through(self, port: int) -> Machine:
        """The same machine, reached through another port."""
        return replace(self.machine, port=port)


@contextlib.contextmanager
def sshd(
    folder: Path,
    *,
    path: str = os.defpath,
    libraries: str = "",
    run_id: str = "",
    settings: str = "",
    within: Sequence[str] = (),
    is_new: bool = True,
    own_network: bool = False,
) -> Iterator[Server]:
    """Start it in `folder`, and at the end stop it and every process that carries its run's mark.

    `path` and `libraries` are what its logins have as PATH and LD_LIBRARY_PATH; `settings` are lines of its own for
    its configuration; `within` is a command that is put before its own, and becomes it. One that `is_new` has no agent yet;
    with `own_network` it listens on a loopback that nothing else here reaches.
    """
    run_id = run_id or secrets.token_hex(16)
    home = folder / "home"
    home.mkdir(parents=True)
    if not is_new:
        agents.bring(folder / "cache")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host_key, login_key = write_key(folder / "host_key"), write_key(folder / "user_key")
    (folder / "authorized_keys").write_text(login_key + "\n")
    port = _free_port()
    (folder / "config").write_text(
        _config(
            folder,
            port,
            f'HOME={home} PATH={path} DAYFLY_RUN={run_id} "LD_LIBRARY_PATH={libraries}"',
        )
        + settings
        + "\n"
    )
    program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin") or "sshd"
    log = folder / "log"
    if own_network:
        within = (*namespaces.OWN_NETWORK, *within)
    server = subprocess.Popen([*within, program, "-D", "-E", log, "-f", folder / "config"])
    machine = Machine(
        id=f"local-{run_id}",
        host="127.0.0.1",
        port=port,
        user=pwd.getpwuid(os.getuid()).pw_name,
        host_key=host_key,
        provider="local",
        region="here",
        instance_type="test",
        cache_dir=str(folder / "cache"),
    )
    keys = Keys(run_id, folder / "user_key", secrets.token_bytes(32))
    try:
        connect: Callable[[int], socket.socket] = _connected
        if own_network:
            connect = functools.partial(namespaces.connected_within, server.pid)
        _await_listening(server, port, connect)
        yield Server(machine, keys, home, log, server.pid)
    finally:
        server.terminate()
        server.wait()
        end_carriers(run_id)


def write_key(path: Path) -> str:
    """Write an ed25519 private key and give its public line."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def carriers(run_id: str) -> set[int]:
    """Every live process that was started with the run's mark."""
    from dayfly.runtime.agent import processes

    return processes.carriers(f"DAYFLY_RUN={run_id}") & set(processes.process_table())


def end_carriers(run_id: str) -> None:
    """End them, until none is left."""
    while left := carriers(run_id):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _config(folder: Path, port: int, environment: str) -> str:
    # An ordinary user's sshd cannot read the shadow file, and without PAM takes every account for a locked one.
    return f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder / "host_key"}
AuthorizedKeysFile {folder / "authorized_keys"}
PidFile {folder / "pid"}
StrictModes no
UsePAM {"no" if os.getuid() == 0 else "yes"}
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
SetEnv {environment}
"""


def _await_listening(
    server: subprocess.Popen[bytes], port: int, connect: Callable[[int], socket.socket]
) -> None:
    while server.poll() is None:
        with contextlib.suppress(OSError), connect(port):
            return
        time.sleep(0.005)
    raise RuntimeError("sshd ended at once")


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
