"""Peak: the most memory that all processes of a place have had together, looked at every two seconds: twice a second it was a tenth of a round's work."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_SAMPLE_S = 2.0


class Peak:
    """Sums of proportional memory (PSS): pages that several processes share are counted by share, so once in all.

    Attributes:
        total_bytes: the highest sum over everything.
        cloud_bytes: what the emulated cloud and its machines had of that, at that moment.
        processes: how many there were then.
    """

    def __init__(self, home: Path, cloud: int) -> None:
        self._home, self._cloud = str(home), cloud
        self._ours: dict[tuple[int, float], bool] = {}
        self.total_bytes = self.cloud_bytes = self.processes = 0

    def look(self) -> None:
        """One sample."""
        cloud = _below(self._cloud)
        below = _below(os.getpid())
        found = {*below, *cloud, *(each for each in psutil.process_iter() if self._is_ours(each))}
        held = {each: _pss_bytes(each) for each in found if each.pid != os.getpid()}
        total = sum(held.values())
        if total > self.total_bytes:
            self.total_bytes, self.processes = total, len(held)
            self.cloud_bytes = sum(count for each, count in held.items() if each in cloud)

    def _is_ours(self, process: psutil.Process) -> bool:
        """What was started with this home, also when its parent is dead; asked once of each process."""
        with contextlib.suppress(psutil.Error, OSError):
            key = (process.pid, process.create_time())
            if key not in self._ours:
                carried = process.environ().get("DAYFLY_HOME") == self._home
                self._ours[key] = carried or any(self._home in part for part in process.cmdline())
            return self._ours[key]
        return False


def _below(pid: int) -> set[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    return set()


def _pss_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error, OSError):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.uss))
    return 0


@contextlib.contextmanager
def peak(home: Path, cloud: int) -> Iterator[Peak]:
    """Looked at until the block ends.

    Args:
        home: the DAYFLY_HOME of what is counted.
        cloud: pid of the emulator, whose machines are its descendants.
    """
    sampled, end = Peak(home, cloud), threading.Event()

    def work() -> None:
        while not end.is_set():
            began = time.monotonic()
            sampled.look()
            end.wait(max(0.05, _SAMPLE_S - (time.monotonic() - began)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield sampled
    finally:
        end.set()
        thread.join()
