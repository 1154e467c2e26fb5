"""What takes the samples."""

from __future__ import annotations

import os
import sys
import time

from .files import boot_clock_s
from .gpu_watch import GpuWatch
from .idle_gpus import IdleGpus
from .meters import meter
from .sample_file import SampleFile
from .samples import IDLE_ORDERS, SAMPLE_EVERY_S, SAMPLES, sample_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Thread
    from typing import Any

    from .job_folder import JobFolder
    from .meters import ProcMeter, PsMeter

# Of one core, at most; where a look costs more than usual, the next comes later.
_SAMPLING_SHARE = 0.004


class Sampler:
    """Writes down every few seconds what the job and its machine use, and sees where a GPU idles.

    In a thread: a disk or a driver that does not answer holds up nothing but the samples.

    Attributes:
        apart: processes beside the job that are not counted with it.
    """

    def __init__(self, job: JobFolder, order: Mapping[str, Any], rouse: Callable[[], None]) -> None:
        self._file, self._folder = SampleFile(job.file(SAMPLES)), job.path
        self._rouse = rouse
        self._floor = IdleGpus(*(order.get(name, 0.0) for name in IDLE_ORDERS))
        # Four readings at least in a window.
        self._every_s = self._floor.every_s(SAMPLE_EVERY_S if sys.platform != "darwin" else 10.0)
        self._gpus = GpuWatch(self._every_s)
        self._complained = False
        self._thread: Thread | None = None
        self._meter: ProcMeter | PsMeter | None = None
        self.apart: set[int] = set()
        self._number = 0
        self._last: dict[str, Any] | None = None
        self.idle = ""

    @property
    def own(self) -> set[int]:
        """Processes that are no part of the job."""
        return self._gpus.processes | self.apart

    def start(self, pid: int) -> None:
        """Begin; the job's own process is `pid`, this one is above it."""
        import threading

        self._ended = threading.Event()
        thread = threading.Thread(target=self._work, args=(pid,), name="sampler", daemon=True)
        self._at = boot_clock_s()
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:  # This user may have no more of them.
            self._complain(error)

    def stop(self) -> None:
        """End, with a last sample of what has been used since the one before."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join(1.0)

    def _work(self, pid: int) -> None:
        self._guarded(lambda: self._measure(pid))
        pause = min(1.0, self._every_s)
        while not self._ended.wait(pause):
            used = time.thread_time()
            self._guarded(self._take)
            pause = max(self._every_s, (time.thread_time() - used) / _SAMPLING_SHARE)
        self._gpus.close()
        self._guarded(self._take_last)

    def _measure(self, pid: int) -> None:
        self._meter = meter(os.getpid(), pid, self._folder)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - a full disk, a driver of another version: the job goes on
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Say once on the supervisor's own log why there are none."""
        if self._complained:
            return
        self._complained = True
        try:
            os.write(2, f"dayfly: no sample: {type(error).__name__}: {error}\n".encode())
        except OSError:
            return  # A disk that has no room for the samples has none for that.

    def _take(self) -> None:
        gpus = self._gpus.read(boot_clock_s())
        self.idle = self.idle or self._floor.idle(boot_clock_s(), gpus)
        if self.idle:
            self._rouse()
        if self._meter is not None:
            self._write({**self._meter.read(self.own), "gpus": gpus})

    def _take_last(self) -> None:
        """Nothing of the job is left to be looked at but the time that it took."""
        if self._last is not None and self._meter is not None:
            self._write({**self._last, **self._meter.read_ended()})

    def _write(self, found: Mapping[str, Any]) -> None:
        now = boot_clock_s()
        head = {
            "n": self._number,
            "k": 1,
            "t": round(time.time(), 2),
            "s": round(now - self._at, 3),
        }
        self._last = {**found, **head}
        self._number, self._at = self._number + 1, now
        self._file.append(sample_line(self._last))
