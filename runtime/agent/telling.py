"""What the process that makes calls tells its zygote."""

from __future__ import annotations

import time

from .frames import encode
from .inbox import parcel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .slate import Slate


class Telling:
    """Parcels to the zygote, which is woken for each, or a slate, at which it looks for a while behind the last word."""

    # A function may have put another clock in its place, and left it there.
    _clock = staticmethod(time.monotonic)

    def __init__(self, channel: Any, slate: Slate | None) -> None:
        self._channel, self._slate = channel, slate
        # When the last word was on its way at the latest, and how many were sent.
        self._told_at, self._sent = -float("inf"), 0

    def say(self, payload: bytes) -> None:
        """Have it hear this at once."""
        now = self._clock()
        self._sent += 1
        self._channel.sendall(parcel(payload))
        self._told_at = now

    def note(self, payload: bytes) -> None:
        """Tell it what it must not miss, and need not hear at once."""
        slate, told_at, now = self._slate, self._told_at, self._clock()
        if (
            slate is None
            or now > told_at + slate.LOOKED_AT_S / 2
            or not slate.put(self._sent, payload)
        ):
            self.say(payload)
            return
        self._told_at = now
        if self._clock() >= told_at + slate.LOOKED_AT_S:
            # Nobody has let this process run for so long; it may have looked for the last time before.
            self.say(encode({"look": True}))
