"""A large content on its way into a file."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Arrival:
    """Which bytes of a content have arrived, piece by piece, and how many of them without a gap from its start.

    Attributes:
        size: of the content.
        have: so many bytes from its start are there.
        failure: what ended it early.
        changed: notified with each change; holds the lock of all of it.
    """

    def __init__(self, size: int, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Some of it may be there already, as (start, end)."""
        import threading

        self.size, self.have, self._at = size, 0, 0
        self.failure: Exception | None = None
        self.changed = threading.Condition()
        # By where a piece starts: up to where it has arrived, and where it ends.
        self._pieces = {start: (end, end) for start, end in ranges if start < end <= size}
        self._advance()

    def _advance(self) -> None:
        while self._at in self._pieces:
            self.have, whole = self._pieces[self._at]
            if self.have < whole:
                break
            del self._pieces[self._at]
            self._at = whole

    def note(self, start: int, end: int, whole: int) -> None:
        """Of the piece that goes from `start` to `whole` all up to `end` has arrived."""
        with self.changed:
            self._pieces[start] = (end, whole)
            self._advance()
            self.changed.notify_all()

    def ranges(self) -> list[tuple[int, int]]:
        """Give what is there, as (start, end), in order and never two where there could be one."""
        with self.changed:
            later = sorted((start, end) for start, (end, _) in self._pieces.items())
            merged = [(0, self.have)]
        for start, end in later:
            if start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    def gaps(self) -> list[tuple[int, int]]:
        """Give what is not there, as (start, end), in order."""
        ranges = self.ranges()
        ends = [start for start, _ in ranges[1:]] + [self.size]
        gaps = [(start, ends[number]) for number, (_, start) in enumerate(ranges)]
        return [(start, end) for start, end in gaps if start < end]

    def fail(self, error: Exception) -> None:
        """Have everyone who waits for more raise `error`."""
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def await_more(self, known: int, or_else: Callable[[], bool] = bool) -> int:
        """Wait until more than `known` bytes are there, or something else has changed; gives how many are.

        Raises:
            Exception: what it failed with.
        """
        with self.changed:
            while self.have <= known and self.failure is None and not or_else():
                self.changed.wait()
            if self.failure is not None:
                raise self.failure
            return self.have
