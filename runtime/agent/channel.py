"""One session's frames, on stdin and stdout of the agent's process."""

from __future__ import annotations

import _thread
import time

from .credit import Credit
from .digests import sha256_of
from .files import write_all
from .frames import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    OPENING_BYTES,
    FrameError,
    channel_keys,
    check_payload,
    decode,
    encode,
    open_header,
    seal,
)
from .hearing import Hearing
from .packing import LEAST_BYTES, timed_pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


class Channel:
    """What one client asks, and what it is answered: each frame sealed for this run, this channel and its place in it.

    Attributes:
        hearing: what comes of the client.
    """

    def __init__(self, run_id: str, key: bytes, nonce: bytes) -> None:
        self.run_id, self.key, self.nonce = run_id, key, nonce
        self._receive_key, self._send_key = channel_keys(key, nonce)
        self._received = self._sent = 0
        self._sending = _thread.allocate_lock()
        self._credits: dict[int, Credit] = {}
        self.hearing = Hearing(0)

    @classmethod
    def of(cls, opening: bytes) -> Channel:
        """That of a client whose opening is nonce, key and run id."""
        return cls(opening[48:OPENING_BYTES].hex(), opening[16:48], opening[:16])

    def requests(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give each request with its body, until the channel closes.

        Raises:
            FrameError: what came is not the client's, or not in its place.
        """
        while True:
            header = self.hearing.exactly(HEADER_BYTES)
            if not header:
                return
            length, digest = open_header(self._receive_key, self.run_id, self._received, header)
            if length > FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {length} bytes")
            payload = self.hearing.exactly(length)
            check_payload(len(payload), sha256_of(payload), length, digest)
            self._received += 1
            yield decode(payload)

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        payload = encode(head, body)
        with self._sending:
            frame = seal(self._send_key, self.run_id, self._sent, payload)
            self._sent += 1
            write_all(1, frame)

    def emit(self, request: Mapping[str, Any], head: Mapping[str, Any], body: bytes = b"") -> None:
        """Send a part of the answer to a request, packed where its client has said that this may pay."""
        credit = self._credits.get(request["id"]) if len(body) >= LEAST_BYTES else None
        # Once: the client may say otherwise at any moment.
        codec = "" if credit is None else credit.codec
        if codec:
            made, took_s = timed_pack(codec, body, time.perf_counter)
            head = {**head, "took_us": round(took_s * 1e6)}
            if len(made) < len(body):
                head, body = {**head, "codec": codec, "plain": len(body)}, made
        self.send({"id": request["id"], **head}, body)

    # -- what sends more than the client may be able to take in

    def lend(self, request: Mapping[str, Any]) -> None:
        """Begin with what every client takes in."""
        self._credits[request["id"]] = Credit()

    def credit(self, request: Mapping[str, Any]) -> Credit:
        """Give that of a request under way."""
        return self._credits[request["id"]]

    def give_credit(self, number: int, size: int, codec: str) -> None:
        """The client has taken in so much of a request's answer, which may have ended, and wants what comes packed so."""
        credit = self._credits.get(number)
        if credit is not None:
            credit.codec = codec
            credit.give(size)

    def settle(self, request: Mapping[str, Any]) -> None:
        self._credits.pop(request["id"], None)
