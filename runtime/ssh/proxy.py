"""Proxy: the way to a machine that this computer's ssh configuration leads through another one, as a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess

from dayfly.infra.ssh_host import SshHost, resolve

_END_S = 5.0


class Proxy:
    """The process of a jump or a proxy command, whose stdin and stdout are a connection to the machine's SSH server.

    Lifecycle: constructing does nothing, `open` starts it, `close` ends it and may come any number of times.

    Args:
        name: of the host, for ssh: what leads there is read from the configuration of this computer, and travels with no machine.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

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
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env=os.environ | {"SSH_ASKPASS_REQUIRE": "never"},
                )
            except OSError:
                here.close()
                raise
        return here

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
