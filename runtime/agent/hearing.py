"""What is heard of a client, and whether it is still there."""

from __future__ import annotations

import _thread
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Hearing:
    """Reads what a client sends, and notices where it must be gone though its connection was never closed.

    A computer that sleeps, or has lost its network, closes nothing, and a server may wait hours for it. Only silence
    while this process listens counts: what takes long here is not the client's doing.
    """

    # A client that has nothing to say pings every 9 s; five times as long as it waits for an answer itself.
    SILENT_S = 135.0
    LOOK_S = 5.0

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._descriptor, self._clock = descriptor, clock
        self._listening: float | None = None
        self._looked = clock()

    def exactly(self, size: int) -> bytes:
        """Read `size` bytes; fewer only where the stream ends."""
        parts: list[bytes] = []
        while size:
            self._listening = self._clock()
            part = os.read(self._descriptor, min(size, 1 << 20))
            self._listening = None
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def is_gone(self) -> bool:
        """Tell whether nothing has come for too long; asked every `LOOK_S`."""
        now, listening = self._clock(), self._listening
        # This machine was stopped, or had no time: what has come meanwhile is not read yet, so the next look judges.
        away, self._looked = now - self._looked > 3 * self.LOOK_S, now
        return not away and listening is not None and now - listening > self.SILENT_S

    def watch(self, gone: Callable[[], None]) -> None:
        """Look again and again, in a thread of its own, and tell once it is."""

        def look() -> None:
            while not self.is_gone():
                time.sleep(self.LOOK_S)
            gone()

        _thread.start_new_thread(look, ())
