"""A machine for the rows of the connection: an OpenSSH server on loopback, our session with it, and the system's clients."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.place import TrialFailed
from benchmarks.report import Say
from dayfly.runtime.agent import frames, sealed_writer
from dayfly.runtime.session import Session
from tests.sshd import Server, sshd

CIPHER = "aes128-gcm@openssh.com"
# What scp speaks with on a server, as its distribution sets it up.
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
_RAM = Path("/dev/shm")


@dataclass(frozen=True)
class Bench:
    """The machine, a folder beside it, and the port through which it is reached."""

    server: Server
    folder: Path
    port: int

    def through(self, port: int) -> Bench:
        """The same, reached through another port."""
        return replace(self, port=port)

    def session(self) -> Session:
        """Our own."""
        return Session(self.server.through(self.port), self.server.keys)

    @property
    def blobs(self) -> Path:
        """Where the machine keeps what was put there."""
        return self.server.home.parent / "cache" / "blobs"

    def options(self) -> list[str]:
        """What the system's clients need to reach it: host key pinned, and no setting of the user's read."""
        machine = self.server.machine
        known = self.folder / f"known_hosts_{self.port}"
        known.write_text(f"[127.0.0.1]:{self.port} {machine.host_key}\n")
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={known}", "LogLevel=ERROR", f"User={machine.user}"]
        options += [f"Port={self.port}", f"Ciphers={CIPHER}"]
        options += [f"IdentityFile={self.server.keys.user_key}", f"ControlPath={self._master}"]
        return ["-F", "none", *(flag for option in options for flag in ("-o", option))]

    @property
    def _master(self) -> Path:
        return self.folder / f"master_{self.port}"

    def ssh(self, *arguments: str) -> list[str]:
        """The command line of the system's ssh."""
        return ["ssh", *self.options(), "127.0.0.1", *arguments]

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """The system's clients share a connection that is there already, as a session of ours has one."""
        command = ["ssh", *self.options(), "-o", "ControlMaster=yes", "-N", "127.0.0.1"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as master:
            try:
                until = time.monotonic() + 20
                while not self._master.exists():
                    if master.poll() is not None or time.monotonic() > until:
                        raise TrialFailed("the system's ssh does not connect")
                    time.sleep(0.01)
                yield
            finally:
                master.terminate()

    def leave_result(self, source: Path) -> Path:
        """Have a result of that content lie there, as a job leaves it."""
        keys, job = self.server.keys, self.server.home / f"job-{self.server.keys.run_id}"
        job.mkdir(mode=0o700, exist_ok=True)
        path = job / "result.sealed"
        writer = sealed_writer.SealedWriter(
            str(path), keys.hmac_key, keys.run_id, frames.RESULT_SEQ
        )
        with source.open("rb") as file:
            while data := file.read(1 << 20):
                writer.write(data)
        writer.commit()
        return path


@contextlib.contextmanager
def running() -> Iterator[Bench]:
    """One, for as long as the block lasts; its files are in memory where this computer has a place for that."""
    within = _RAM if os.access(_RAM, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dayfly-bench-", dir=within) as name:
        folder = Path(name)
        found = [path for path in _SFTP_SERVERS if Path(path).exists()]
        settings = f"Subsystem sftp {(found or ['internal-sftp'])[0]}"
        with sshd(folder / "machine", settings=settings) as server:
            yield Bench(server, folder, server.machine.port)


def random_file(path: Path, size: int) -> Path:
    """Content that nothing can make smaller, and that is nowhere yet."""
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))
    return path


def timed(act: Callable[[], object]) -> float:
    """How many seconds it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def command(line: Sequence[str], source: Path | None = None, sink: Path | None = None) -> None:
    """Run one of the system's commands, with its stdin and stdout from and to files.

    Raises:
        TrialFailed: it did not end well.
    """
    with (
        open(source or os.devnull, "rb") as stdin,  # noqa: PTH123 - a path or a name
        open(sink or os.devnull, "wb") as stdout,  # noqa: PTH123
    ):
        done = subprocess.run(line, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise TrialFailed(f"{line[0]} ended with {done.returncode}: {done.stderr.decode()[-500:]}")


def in_turn(
    trials: int, ours: Callable[[], float], peer: Callable[[], float], say: Say
) -> tuple[float, float]:
    """The best of each, measured in turn: what else this computer does meets both."""
    best = peer_best = float("inf")
    for number in range(trials):
        best, peer_best = min(best, ours()), min(peer_best, peer())
        say(f"{number + 1} of {trials}: best {best:.4g}, peer's {peer_best:.4g}")
    return best, peer_best
