"""A login to somebody's own machine through OpenSSH's client, and the one question that is asked there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dayfly.infra import ssh_environment, ssh_far, ssh_refusal, whole_file
from dayfly.infra.ssh_failed import SshFailed
from dayfly.infra.ssh_host import BATCH, Place, SshHost
from dayfly.infra.ssh_pin import algorithms

# Each of them would do more than log in, ask somebody, or take a connection that is not known to be the host's.
_OPTIONS = {
    **BATCH,
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
# Whoever closes a run waits for 75 s for a request that is under way: all of it has to be shorter.
ASK_S = 60.0
_GREETING_BYTES = 64 << 10
# Says that it is there before anything is sent, so that what was never greeted has certainly done nothing. When that was is
# measured there: whoever has asked counts from a moment after it.
_STUB = """
import os,sys,time
t=[time.monotonic(),time.time()]
os.write(1,READY)
def rd(n):
 b=b""
 while len(b)<n:
  c=os.read(0,n-len(b))
  if not c:sys.exit(3)
  b+=c
 return b
import json
o=json.loads(rd(int(rd(8),16)).decode())
g={"__name__":"dayfly_far"}
exec(compile(o["program"],"dayfly","exec"),g)
o["request"]["begun"]=t
sys.stdout.flush()
os.write(1,ANSWER+json.dumps(g["main"](o["request"])).encode())
"""


@dataclass(frozen=True)
class Answer:
    """What the machine said.

    Attributes:
        values: of what was asked for.
        fingerprints: SHA256 of each host key that ssh has accepted on its way, the machine's own last.
    """

    values: Mapping[str, Any]
    fingerprints: tuple[str, ...]


@dataclass(frozen=True)
class Login:
    """One way in.

    Attributes:
        name: of the host, for the words.
        arguments: of ssh, up to the host.
    """

    name: str
    arguments: tuple[str, ...]

    @classmethod
    def own(cls, host: SshHost) -> Login:
        """As the user logs in: configuration, keys, agent and jumps are those of `ssh`."""
        return cls(host.name, (*_flags(_OPTIONS), *host.arguments))

    @classmethod
    def of_run(cls, name: str, place: Place, host_key: str, directory: Path) -> Login:
        """With a run's own key alone, and its pinned host key."""
        known = directory / "known_hosts.ssh"
        _keep(known, f"dayfly-{directory.name} {host_key}\n")
        options = _OPTIONS | {
            "IdentityFile": _quoted(directory / "user_key"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": _quoted(known),
            "GlobalKnownHostsFile": os.devnull,
            "HostKeyAlias": f"dayfly-{directory.name}",
            # Otherwise a key of another type would be shown first, and refused.
            "HostKeyAlgorithms": ",".join(algorithms(host_key.partition(" ")[0])),
        }
        if place.proxy:
            options["ProxyCommand"] = place.proxy.replace("%", "%%")
        where = ("-l", place.user, "-p", str(place.port), "--", place.host)
        return cls(name, ("-F", os.devnull, *_flags(options), *where))

    def ask(
        self,
        request: Mapping[str, Any],
        timeout_s: float = ASK_S,
        before: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Has the machine do one thing.

        Args:
            request: for `ssh_far.main`.
            timeout_s: for all of it.
            before: called when the machine is there, and before anything is sent to it; what it raises is raised here.

        Raises:
            SshFailed: it could not be reached, or could not do it.
        """
        nonce = secrets.token_hex(8)
        command = ["ssh", "-v", "-T", *self.arguments, _command(nonce)]
        with tempfile.TemporaryFile() as words, _started(command, words) as process:
            conversation = _Conversation(self.name, process, words, time.monotonic() + timeout_s)
            conversation.read_up_to(f"\0ready:{nonce}\n".encode())
            before()
            conversation.send(request)
            values = conversation.read_answer(f"\0answer:{nonce}\n".encode())
            said = _text(words)
        if "error" in values:
            raise SshFailed("refused", f"host {self.name} could not do it: {values['error']}")
        return Answer(values, tuple(re.findall(r"Server host key: \S+ (SHA256:\S+)", said)))


@dataclass
class _Conversation:
    """With the far side of one ssh process."""

    name: str
    process: subprocess.Popen[bytes]
    words: IO[bytes]
    until: float
    _arrived: bytes = b""

    def read_up_to(self, mark: bytes) -> None:
        """A login shell's start files may have written something before it."""
        while mark not in self._arrived:
            if not self._read() or len(self._arrived) > _GREETING_BYTES:
                raise self._not_reached()
        self._arrived = self._arrived.partition(mark)[2]

    def send(self, request: Mapping[str, Any]) -> None:
        text = {"program": Path(ssh_far.__file__).read_text("utf-8"), "request": request}
        body = json.dumps(text).encode()
        assert self.process.stdin is not None
        # Closed at once: nothing more is to come. Where it broke, there will be no answer.
        with contextlib.suppress(OSError), self.process.stdin as stdin:
            stdin.write(b"%08x" % len(body) + body)

    def read_answer(self, mark: bytes) -> dict[str, Any]:
        while self._read():
            pass
        _, marked, text = self._arrived.partition(mark)
        try:
            if not marked:
                raise ValueError("no answer")
            found: dict[str, Any] = json.loads(text)
        except ValueError:
            raise SshFailed(
                "lost", f"the connection to host {self.name} broke before it answered: {self._said}"
            ) from None
        return found

    def _read(self) -> bool:
        """Takes what comes next; False at the end, or when it is too late."""
        assert self.process.stdout is not None
        left = self.until - time.monotonic()
        # Not `select`, which knows no descriptor above 1023.
        arrival = select.poll()
        arrival.register(self.process.stdout, select.POLLIN)
        if left <= 0 or not arrival.poll(left * 1000):
            return False
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        self._arrived += data
        return bool(data)

    @property
    def _said(self) -> str:
        return ssh_refusal.told(_text(self.words))

    def _not_reached(self) -> SshFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            # What it says last comes with its end.
            self.process.wait(1.0)
        return ssh_refusal.of(self.name, _text(self.words), self.process.returncode)


def _keep(file: Path, text: str) -> None:
    """Another process may have the file open, or be about to write the same."""
    with contextlib.suppress(FileNotFoundError):
        if file.read_text(encoding="ascii") == text:
            return
    try:
        whole_file.write(file, text)
    except FileNotFoundError:
        if not file.exists():
            raise


def _flags(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(part for name, value in options.items() for part in ("-o", f"{name}={value}"))


def _quoted(file: Path) -> str:
    """As the value of an option: ssh splits it at spaces, and takes "%" for a sign of its own."""
    return f'"{str(file).replace("%", "%%")}"'


def _command(nonce: str) -> str:
    """One line for any login shell; the interpreter is chosen as for the agent."""
    ready, answer = f"\0ready:{nonce}\n".encode(), f"\0answer:{nonce}\n".encode()
    marks = f"READY={ready!r}\nANSWER={answer!r}\n"
    python = f"h='{(marks + _STUB).encode().hex()}';exec(bytes.fromhex(h))"
    script = (
        "p=python3; [ -d /proc/self ] && [ -x /usr/bin/python3 ] && p=/usr/bin/python3; "
        f'exec $p -I -S -c "{python}"'
    )
    return f"exec sh -c {shlex.quote(script)}"


@contextlib.contextmanager
def _started(command: list[str], words: IO[bytes]) -> Any:
    """An ssh without a terminal, which is ended with its proxies however the block is left."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
            env=ssh_environment.of_ssh() | {"LC_ALL": "C"},
        )
    except OSError as error:
        raise SshFailed("login", f"`ssh` cannot be started: {error}") from error
    with process:
        try:
            yield process
        finally:
            # Its proxies are of its group, and end by themselves where it has.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _text(words: IO[bytes]) -> str:
    # Not by its position, which ssh writes at.
    return os.pread(words.fileno(), 1 << 20, 0).decode(errors="replace")
