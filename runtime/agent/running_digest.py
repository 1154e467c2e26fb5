"""A digest that keeps up with a file that is being written."""

from __future__ import annotations

import os

from .digests import new_sha256


class RunningDigest:
    """SHA-256 of what a file holds from a place on, taken while it arrives there.

    What comes next is digested by whoever has brought it, who has it at hand; all else is read from the file.

    Attributes:
        done: it is digested up to there.
    """

    READ_BYTES = 4 << 20

    def __init__(self, descriptor: int, begin: int = 0) -> None:
        import threading

        self._descriptor, self.done = descriptor, begin
        self._sha256, self._turn = new_sha256(), threading.Lock()

    def add(self, offset: int, *parts: bytes | memoryview) -> None:
        """Digest what was just written from a place on, one part behind the other, as far as it comes next, unless somebody is at it."""
        end = offset + sum(map(len, parts))
        if not offset <= self.done < end or not self._turn.acquire(False):
            return
        try:
            # Another may have been at it in between.
            for part in parts if offset <= self.done else ():
                fresh = memoryview(part)[max(0, self.done - offset) :]
                offset += len(part)
                self._sha256.update(fresh)
                self.done += len(fresh)
        finally:
            self._turn.release()

    def catch_up(self, have: int) -> None:
        """Digest all up to `have`, which is in the file.

        Raises:
            OSError: it is not.
        """
        with self._turn:
            while self.done < have:
                data = os.pread(self._descriptor, min(self.READ_BYTES, have - self.done), self.done)
                if not data:
                    raise OSError(f"the file ends at {self.done}, before {have}")
                self._sha256.update(data)
                self.done += len(data)

    def digest(self) -> bytes:
        """Give it as far as it is done."""
        return bytes(self._sha256.digest())
