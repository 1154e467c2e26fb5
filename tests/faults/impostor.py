"""An SSH server with a host key of its own that counts every attempt to log in to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import paramiko
from paramiko.common import AUTH_FAILED


class Impostor(paramiko.ServerInterface):
    """Listens on loopback; lets nobody in.

    Attributes:
        port: where.
        connections: that came as far as the TCP handshake.
        attempts: user names and methods that anyone tried to log in with.
    """

    def __init__(self, key: paramiko.PKey) -> None:
        self.attempts: list[str] = []
        self.connections = 0
        self._key = key
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                transport = paramiko.Transport(connection)
                transport.set_log_channel("tests.impostor")
                transport.add_server_key(self._key)
                self._transports.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(event=threading.Event(), server=self)

    def get_allowed_auths(self, username: str) -> str:
        self.attempts.append(f"asked how {username} may log in")
        return "publickey,password"

    def check_auth_none(self, username: str) -> int:
        self.attempts.append(f"{username} with nothing")
        return AUTH_FAILED

    def check_auth_publickey(self, username: str, _key: paramiko.PKey) -> int:
        self.attempts.append(f"{username} with a key")
        return AUTH_FAILED

    def check_auth_password(self, username: str, _password: str) -> int:
        self.attempts.append(f"{username} with a password")
        return AUTH_FAILED

    def close(self) -> None:
        """Ends it and its connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()


@contextlib.contextmanager
def impostor(key: paramiko.PKey) -> Iterator[Impostor]:
    """One for as long as the block lasts."""
    made = Impostor(key)
    try:
        yield made
    finally:
        made.close()
