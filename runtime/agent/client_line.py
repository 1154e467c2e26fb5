"""The zygote's socket, and the client on it."""

from __future__ import annotations

import os
import time

from .files import in_folder
from .peer import Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from selectors import BaseSelector
    from typing import Any

    from .call_book import CallBook


class ClientLine:
    """Whoever has connected, of whom the latest client is the one that counts.

    Attributes:
        client: that one, or None.
        blobs: the folder in which its content by digest lies.
        alone_since: when the last one went; seconds of the monotonic clock.
    """

    # Results that are sent together, and what is said of each: of a line that breaks again and again the first of them should have
    # come whole before it does.
    TOGETHER_BYTES, ENTRY_BYTES = 8 << 10, 150

    def __init__(
        self,
        selector: BaseSelector,
        hello: Mapping[str, Any],
        heard: Callable[[dict[str, Any], bytes], None],
        attached: Callable[[int], None],
        lent: Callable[[Any], None],
    ) -> None:
        """Args:
        selector: the zygote's.
        hello: what each client is greeted with.
        heard: called with each parcel of the client that counts.
        attached: called with the generation of a client that counts from now on.
        lent: called with a connection that such a client has for what makes its calls.
        """
        self._selector, self._hello = selector, hello
        self._heard, self._attached, self._lent = heard, attached, lent
        self.client: Peer | None = None
        self.blobs = ""
        self.alone_since = time.monotonic()
        self._peers = set()  # type: set[Peer]
        self._generation = -1

    def listen(self, folder: str) -> None:
        """Listen in the job's folder, where the socket is seen only once it answers."""
        import selectors
        import socket

        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        in_folder(folder, lambda: self._listener.bind("zygote.tmp"))
        self._listener.listen(8)
        self._listener.setblocking(False)
        os.rename(os.path.join(folder, "zygote.tmp"), os.path.join(folder, "zygote"))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Close all of it: in a forked child, which has copies that are no use to it."""
        for peer in self._peers:
            peer.close()
        self._listener.close()

    def _accept(self, events: int) -> None:
        import selectors

        try:
            channel, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # As many files are open here as may be: it waits until calls have ended, and is not asked for too often.
            time.sleep(0.01)
            return
        peer = Peer(channel)
        self._peers.add(peer)
        self._selector.register(
            channel, selectors.EVENT_READ, lambda events: self._on_client(peer, events)
        )

    def _on_client(self, peer: Peer, events: int) -> None:
        peer.flush()
        for head, body in peer.receive():
            if "generation" in head:
                self._attach(peer, head)
            elif "shortcut" in head:
                self._lend(peer, head["shortcut"])
            elif peer is self.client:
                self._heard(head, body)
        if peer.over:
            self._drop(peer)
        else:
            peer.watch(self._selector)

    def _attach(self, peer: Peer, head: Mapping[str, Any]) -> None:
        """What an earlier connection still holds of the client must not come in after it."""
        if head["generation"] <= self._generation:
            self._drop(peer)
            return
        if self.client is not None:
            self._drop(self.client)
        self.client, self._generation, self.blobs = peer, head["generation"], head["blobs"]
        peer.send({"hello": self._hello})
        self._attached(self._generation)

    def _lend(self, peer: Peer, generation: int) -> None:
        """What is left of a former client is closed with the peer that has brought it."""
        import socket

        if peer.passed and generation == self._generation and self.client is not None:
            self._lent(socket.socket(fileno=peer.passed.pop(0)))

    def _drop(self, peer: Peer) -> None:
        peer.forget(self._selector)
        self._peers.discard(peer)
        if peer is self.client:
            self.client, self.alone_since = None, time.monotonic()

    def send_results(self, book: CallBook) -> None:
        """Send what is ready, some together; what nobody is there for is offered to the next client."""
        if self.client is None:
            book.ready.clear()
            return
        while book.ready:
            size, entries, parts = 0, [], []
            while book.ready and size < self.TOGETHER_BYTES:
                call = book.ready.pop(0)
                if call.result is not None:
                    entries.append(call.result)
                    parts.append(call.content())
                    size += len(parts[-1]) + self.ENTRY_BYTES
            self.client.send({"results": entries}, b"".join(parts))
        self.client.watch(self._selector)
