"""Passage: one connection from a machine's loopback to another machine's, through this computer and the SSH connections to both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeAlias

import paramiko

Channel: TypeAlias = paramiko.Channel
_CHUNK_BYTES = 256 << 10


class Passage:
    """Bytes both ways between two channels, each way ended by itself; where one channel breaks, both are closed.

    Lifecycle: constructing does nothing; `start` carries, in threads of its own, until both ways have ended or `close`.

    Args:
        near: the channel that a machine has opened.
        reach: opens the one to where it is to lead.
        ended: called once it is over.
    """

    def __init__(
        self,
        near: Channel,
        reach: Callable[[], Channel],
        ended: Callable[[Passage], None],
    ) -> None:
        self._near, self._reach, self._ended = near, reach, ended
        self._far: Channel | None = None
        self._closed = False

    def start(self) -> None:
        """Carries from now on; waits for nothing."""
        try:
            threading.Thread(target=self._see_out, name="dayfly passage", daemon=True).start()
        except RuntimeError:
            # No further thread can be had; this one reads the whole SSH connection, which would end with it.
            self.close()
            self._ended(self)

    def _see_out(self) -> None:
        try:
            self._far = far = self._reach()
            if self._closed:
                return
            back = threading.Thread(
                target=self._carry, args=(far, self._near), name="dayfly passage", daemon=True
            )
            back.start()
            self._carry(self._near, far)
            back.join()
        except Exception:  # noqa: BLE001 - whatever keeps it from being made: who has connected sees it closed, and tries again
            return
        finally:
            self.close()
            self._ended(self)

    def _carry(self, source: Channel, sink: Channel) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                # A memoryview, since paramiko would copy the rest of the bytes for each packet.
                sink.sendall(memoryview(data))  # type: ignore[arg-type]
            if not source.eof_received:
                raise EOFError("the connection went before all was there")
            sink.shutdown_write()
        except Exception:  # noqa: BLE001 - paramiko's of a connection that is gone, of which it has many
            self.close()

    def close(self) -> None:
        """Closes both channels; twice is fine, and from any thread."""
        self._closed = True
        for channel in (self._near, self._far):
            if channel is not None:
                _closed(channel)


def _closed(channel: Channel) -> None:
    # Where its connection has gone, the channel has gone with it.
    with contextlib.suppress(Exception):
        channel.close()
