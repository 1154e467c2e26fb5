"""Proxy: the way to a machine that this computer's ssh configuration leads through another one, as a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections import deque
from typing import IO

from dayfly.infra import ssh_environment
from dayfly.infra.ssh_host import SshHost, resolve

_END_S = 5.0
# Why it has ended stands at the end of what it says.
_LISTEN_S = 0.5
_LINES, _LINE_BYTES = 4, 500


class Proxy:
    """The process of a jump or a proxy command, whose stdin and stdout are a connection to the machine's SSH server.

    Lifecycle: constructing does nothing, `open` starts it, `close` ends it and may come any number of times.

    Args:
        name: of the host, for ssh: what leads there is read from the configuration of this computer, and travels with no machine.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._said = deque[str](maxlen=_LINES)

    def open(self) -> socket.socket:
        """Start it.

        Raises:
            ConfigurationError: ssh cannot tell how the host is reached.
            OSError: the configuration leads there directly by now, or the command cannot be started.
        """
        command = resolve(SshHost.parse(self._name)).proxy
        if not command:
            raise OSError(f"the ssh configuration has no proxy to {self._name} any more")
        here, there = socket.socketpair()
        with there:
            try:
                self._process = subprocess.Popen(
                    [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}"],
                    stdin=there.fileno(),
                    stdout=there.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env=ssh_environment.of_ssh(),
                )
            except OSError:
                here.close()
                raise
        assert self._process.stderr is not None
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stderr,), name="dayfly-proxy", daemon=True
        )
        self._listener.start()
        return here

    @property
    def said(self) -> str:
        """The last lines of what it has said, as a rule why it leads nowhere; "" for nothing. Whole once it is closed."""
        return "; ".join(tuple(self._said))

    def _listen(self, stderr: IO[bytes]) -> None:
        """Sleeps but when something is said; a pipe that nobody reads would stop whoever writes to it."""
        with stderr, contextlib.suppress(OSError, ValueError):
            while line := stderr.readline(_LINE_BYTES):
                if text := line.decode(errors="replace").strip():
                    self._said.append(text)

    def close(self) -> None:
        """End it, and what it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._listener is not None:
            # A process that it has let go of may hold the pipe open for long.
            self._listener.join(_LISTEN_S)
