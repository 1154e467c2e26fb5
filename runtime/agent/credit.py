"""How much more the client takes in."""

from __future__ import annotations

from .frames import CREDIT_BYTES


class Credit:
    """How many bytes a stream may send before the client says that it has taken some: no slow reader fills memory.

    Attributes:
        codec: what they are to be packed by, "" where they are to come as they are; the client says it with each credit.
    """

    def __init__(self) -> None:
        import threading

        self._left, self.codec = CREDIT_BYTES, ""
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        with self._changed:
            while self._left <= 0:
                self._changed.wait()
            self._left -= size

    def give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()
