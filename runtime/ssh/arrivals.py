"""Arrivals: what a channel has received and nobody has read yet, packet by packet."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from paramiko.buffered_pipe import BufferedPipe, PipeTimeout


class Arrivals(BufferedPipe):  # type: ignore[type-arg]  # it is generic in its stubs alone
    """paramiko's buffer of a channel, which copies each byte three times, and all that waits whenever some is read."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[bytes] = deque()
        self._there = 0
        self._changed = threading.Condition()
        self._told: threading.Event | None = None
        self._taker: Callable[[bytes], None] | None = None
        self._ended: Callable[[], None] | None = None
        self._over = False

    def hand_to(
        self, taker: Callable[[bytes], None], ended: Callable[[], None] | None = None
    ) -> None:
        """Have `taker` called with what comes, packet by packet, in the thread that feeds; what waits goes first.

        Nothing is left to read then but the end; `ended` is called once when that comes, whoever holds which lock.
        """
        while True:
            with self._changed:
                waiting = self.empty()
                if not waiting:
                    self._taker, self._ended, over = taker, ended, self._over
                    break
            taker(waiting)
        if over and ended is not None:
            ended()

    def set_event(self, event: threading.Event) -> None:
        """Have an event that is set while there is something to read."""
        with self._changed:
            self._told = event
            if self._over or self._there:
                event.set()
            else:
                event.clear()

    def feed(self, data: bytes | str) -> None:
        """Take a packet's content."""
        taken = data.encode() if isinstance(data, str) else data
        if not taken:
            return  # Reading nothing means that no more will come.
        with self._changed:
            taker = self._taker
            if taker is None:
                self._waiting.append(taken)
                self._there += len(taken)
                if self._told is not None:
                    self._told.set()
                self._changed.notify_all()
        if taker is not None:
            taker(taken)

    def read_ready(self) -> bool:
        """Whether there is something."""
        with self._changed:
            return self._there > 0

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Give what came next, as much as is there; nothing where no more will come.

        Raises:
            PipeTimeout: nothing came in time.
        """
        return b"".join(self.read_parts(nbytes, timeout))

    def read_parts(self, nbytes: int, timeout: float | None = None) -> list[bytes]:
        """As `read`, in the parts in which it came: to put together what is large takes new memory each time.

        Raises:
            PipeTimeout: nothing came in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._there and not self._over:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0.0:
                    raise PipeTimeout
                self._changed.wait(left)
            return self._next(nbytes)

    def _next(self, most: int) -> list[bytes]:
        # All that there is: for each packet by itself whoever reads would have to wait for its turn to run.
        parts, size = list[bytes](), 0
        while self._waiting and size < most:
            part = self._waiting.popleft()
            if len(part) > most - size:
                if parts:
                    self._waiting.appendleft(part)
                    break
                self._waiting.appendleft(part[most:])
                part = part[:most]
            parts.append(part)
            size += len(part)
        self._there -= size
        if not self._there and self._told is not None and not self._over:
            self._told.clear()
        return parts

    def empty(self) -> bytes:
        """Give all that there is."""
        with self._changed:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._there = 0
            if self._told is not None and not self._over:
                self._told.clear()
            return data

    def close(self) -> None:
        """No more will come."""
        with self._changed:
            ended = None if self._over else self._ended
            self._over = True
            self._changed.notify_all()
            if self._told is not None:
                self._told.set()
        if ended is not None:
            ended()

    def __len__(self) -> int:
        with self._changed:
            return self._there
