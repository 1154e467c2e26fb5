"""How much more the client takes in."""

from __future__ import annotations

from .frames import CREDIT_BYTES


class Credit:
    """How many bytes a stream may send before the client says that it has taken some: no slow reader fills memory."""

    def __init__(self) -> None:
        import threading

        self._left = CREDIT_BYTES
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
