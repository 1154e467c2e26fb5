"""What one call has printed."""

from __future__ import annotations

import os
import time

from .files import free_file
from .frames import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .known_call import KnownCall

WARM_OUTPUT_BYTES = 16 << 10


class CallLog:
    """One stream of the run's log, which must not end the calls of others when one of them has filled the disk.

    What finds no room is left out; how much that was is said in its place, as soon as there is room for it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._missing = descriptor, 0

    def write(self, data: bytes) -> None:
        if self._missing:
            words = (
                f"\ndayfly: {self._missing} bytes are missing here: the machine's disk was full\n"
            )
            if self._written(words.encode()) < len(words):
                self._missing += len(data)
                return
        self._missing = len(data) - self._written(data)

    def _written(self, data: bytes) -> int:
        """Write as much as there is room for, and tell how much that was."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, memoryview(data)[written:])
        except OSError:
            pass  # Whatever the disk has against it.
        return written


class Printed:
    """What a child prints on one stream: a file without a name that it appends to, read here as it grows.

    What was read takes no room any more, where the system can do that: a process that stays could fill the disk. The
    last of it is kept, as the process may look at that itself.
    """

    FREED_BYTES, KEPT_BYTES = 8 << 20, 1 << 20

    def __init__(self, folder: str, log: CallLog) -> None:
        path = os.path.join(folder, f"printed.{time.time_ns()}")
        self.child_end = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        os.unlink(path)
        self._log, self._read, self._freed, self._line = log, 0, 0, b""

    def size(self) -> int:
        return os.fstat(self.child_end).st_size

    def relay(self, until: int, label: bytes, call: KnownCall | None) -> bool:
        """Pass on to the run's log what lies before `until`, by whole lines where they get a label."""
        moved = False
        while self._read < until:
            data = os.pread(self.child_end, min(CHUNK_BYTES, until - self._read), self._read)
            if not data:
                break
            self._read, moved = self._read + len(data), True
            if call is not None:
                call.keep(self._log.descriptor, data)
            self._pass_on(data, label)
            if self._read - self._freed >= self.FREED_BYTES:
                free_file(self.child_end, self._read - self.KEPT_BYTES)
                self._freed = self._read
        return moved

    def _pass_on(self, data: bytes, label: bytes) -> None:
        if not label:
            self._log.write(data)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if lines:
            self._log.write(b"".join(label + line + b"\n" for line in lines))

    def end_line(self, label: bytes) -> None:
        """What has no end of its own gets one where the next line may be another call's."""
        if self._line:
            self._pass_on(b"\n", label)

    def close(self) -> None:
        os.close(self.child_end)
