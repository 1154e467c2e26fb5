"""The keeper's socket: one line of JSON each way, from processes of the same user only. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]
# The values of a few variables; what is longer is no message of ours.
_LINE_BYTES = 1 << 20
# Of the 104 bytes that macOS has for the name of a socket.
_NAME_BYTES = 100


def path_of(folder: Path, host: str) -> Path:
    """Where the socket of a keeper is: in its folder, or where that name is too long for one, in a private one."""
    inside = folder / f"{host}.sock"
    if len(os.fsencode(inside)) <= _NAME_BYTES:
        return inside
    import hashlib  # brings OpenSSL along, and is seldom needed

    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dayfly-{os.getuid()}-{digest}" / "keeper.sock"


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's and nobody else can put a socket there."""
    status = folder.lstat()
    return status.st_uid == os.getuid() and status.st_mode & 0o077 == 0 and not folder.is_symlink()


def peer_uid(connection: socket.socket) -> int:
    """Whose process is at the other end, as the kernel says.

    Raises:
        OSError: it does not say.
    """
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", credentials)[1])
    if sys.platform == "darwin":
        # LOCAL_PEERCRED of SOL_LOCAL: a version, the effective uid, and its groups.
        return int(struct.unpack_from("2I", connection.getsockopt(0, 1, 128))[1])
    raise OSError("this system does not tell who is at the other end of a socket")


class KeeperSocket:
    """Listens, greets each client, and answers its lines.

    Lifecycle: constructing binds and listens; `close` takes no new client, and those that were never greeted see their
    connection end.

    Args:
        path: of the socket.
        greeting: what each client is told first.
        answer: makes the answer to one message.
        selector: where readiness is waited for; the caller does that.
    """

    def __init__(
        self,
        path: Path,
        greeting: dict[str, Any],
        answer: Answer,
        selector: selectors.BaseSelector,
    ) -> None:
        self._path, self._greeting, self._answer, self._selector = path, greeting, answer, selector
        self._pending: dict[socket.socket, bytes] = {}
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not is_private(path.parent):
            raise PermissionError(f"{path.parent} must be a folder that only you can enter")
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(64)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._pending)

    def close(self) -> None:
        """Takes no new client and lets go of the present ones."""
        for connection in list(self._pending):
            self._drop(connection)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with contextlib.suppress(OSError):
            if peer_uid(connection) == os.getuid():
                connection.setblocking(False)
                self._pending[connection] = b""
                self._selector.register(
                    connection, selectors.EVENT_READ, lambda: self._read(connection)
                )
                self._send(connection, self._greeting)
                return
        connection.close()

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        held = self._pending[connection] + data
        if not data or len(held) > _LINE_BYTES:
            self._drop(connection)
            return
        *lines, self._pending[connection] = held.split(b"\n")
        for line in lines:
            if connection in self._pending:
                self._send(connection, self._answered(line))

    def _answered(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
            return self._answer(message)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Never the line itself: it may hold a credential.
            return {"refused": f"not a message for a keeper: {type(error).__name__}"}

    def _send(self, connection: socket.socket, message: dict[str, Any]) -> None:
        # A few kilobytes into an empty buffer; whoever does not read them is no client of ours.
        try:
            connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        if self._pending.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()
