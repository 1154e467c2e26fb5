"""The client's own way to the one process that makes its calls."""

from __future__ import annotations

import select
import socket

from .inbox import Inbox, parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# More than that may not be taken at once.
_PARCEL_BYTES = 32 << 10


class Shortcut:
    """A stream from the client, as the process has it that makes the calls: beside the zygote, which knows of each."""

    def __init__(self, descriptor: int, generation: int, channel: Any) -> None:
        """`channel` is that to the zygote, whose word comes first."""
        self.generation = generation
        self._connection, self._inbox = socket.socket(fileno=descriptor), Inbox()
        self._zygote: int = channel.fileno()
        self._both = select.poll()
        for each in (self._zygote, self._connection.fileno()):
            self._both.register(each, select.POLLIN)

    def is_next(self) -> bool:
        """Wait until something has come; tell whether that is the client's, and the zygote has said nothing."""
        return all(descriptor != self._zygote for descriptor, _ in self._both.poll())

    def receive(self) -> list[bytes] | None:
        """Give the payload of every parcel that is whole; None at the end of it."""
        try:
            data = self._connection.recv(1 << 16)
        except OSError:
            data = b""
        return list(self._inbox.payloads(data)) if data else None

    def tell(self, payload: bytes) -> bool:
        """Send the client a parcel, and tell whether it was taken: at once and as a whole, or not at all."""
        data = parcel(payload)
        if len(data) > _PARCEL_BYTES:
            return False
        try:
            if self._connection.send(data, socket.MSG_DONTWAIT) == len(data):
                return True
        except OSError:
            pass
        # It may have taken a part: the client must not wait for the rest.
        end(self._connection)
        return False

    def close(self) -> None:
        self._connection.close()


def end(connection: Any) -> None:
    """Have both ends of a connection see its end, whoever else has copies of them."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # The other one has gone.
