"""One end of a socket, with what is still to be sent."""

from __future__ import annotations

import os

from .frames import encode
from .inbox import Inbox, parcel
from .passing import receive_with, send_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from selectors import BaseSelector
    from typing import Any


class Peer:
    """One end of a unix socket that nobody waits for: what it does not take at once stays in memory."""

    def __init__(self, channel: Any) -> None:
        channel.setblocking(False)
        self.channel, self.over = channel, False
        # Descriptors that have come, the first one first.
        self.passed: list[int] = []
        self._inbox, self._held = Inbox(), bytearray()

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        self._held += parcel(encode(head, body))
        self.flush()

    def send_with(self, head: Mapping[str, Any], descriptor: int) -> bool:
        """Send a parcel without a body, and a copy of a descriptor; tell whether it could be sent at once."""
        data = parcel(encode(head))
        if self._held or self.over:
            return False
        try:
            self._held += data[send_with(self.channel, data, descriptor) :]
        except OSError:
            return False  # Full, or gone.
        return True

    def flush(self) -> None:
        try:
            while self._held and not self.over:
                sent = self.channel.send(memoryview(self._held)[: 1 << 20])
                del self._held[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.over = True

    def receive(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give every parcel that is whole; `over` is set where the other end has gone."""
        while not self.over:
            try:
                data, passed = receive_with(self.channel, 1 << 18)
                self.passed += passed
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.over = not data
            yield from self._inbox.feed(data)

    def watch(self, selector: BaseSelector) -> None:
        """Wait for the other end to take more, too, where something is held back for it."""
        import selectors

        if self.channel.fileno() < 0:
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._held else 0)
        key = selector.get_key(self.channel)
        if key.events != wanted:
            selector.modify(self.channel, wanted, key.data)

    def forget(self, selector: BaseSelector) -> None:
        """Close it, and wait for nothing of it."""
        if self.channel.fileno() >= 0:
            selector.unregister(self.channel)
            self.close()

    def close(self) -> None:
        self.over = True
        self.channel.close()
        while self.passed:
            os.close(self.passed.pop())
