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
        # With fewer bytes than that from the start nobody is woken.
        self._awaited: float = 0
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
            if self.have >= self._awaited:
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

    def await_more(
        self,
        known: int,
        or_else: Callable[[], bool] = bool,
        step: int = 1,
        within_s: float | None = None,
    ) -> int:
        """Wait until there are more bytes than `known`, or something else has changed; for one thread.

        Args:
            known: so many are known to be there.
            or_else: whether something else has changed.
            step: so many more are waited for, where as many are still to come.
            within_s: for so long at most.

        Returns:
            How many are there.

        Raises:
            Exception: what it failed with.
        """
        with self.changed:
            # Of what is there already no more can come.
            self._awaited = min(known + step, self.size) if known < self.size else float("inf")
            self.changed.wait_for(
                lambda: self.have >= self._awaited or self.failure is not None or or_else(),
                within_s,
            )
            if self.failure is not None:
                raise self.failure
            return self.have
