"""The job's output, as it grows."""

from __future__ import annotations

import os
import time

from .frames import CHUNK_BYTES
from .sample_file import SampleReader
from .samples import SAMPLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .job_folder import JobFolder


class LogFollower:
    """Reads what a job writes as it is written, and knows when it has ended."""

    # Looking costs about 15 us; the pause grows as the job falls silent.
    PAUSES_S = ((2.0, 0.003), (30.0, 0.01), (float("inf"), 0.05))

    def __init__(
        self,
        job: JobFolder,
        offsets: Mapping[str, int],
        samples: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is read yet.

        Args:
            job: whose output.
            offsets: how much of each stream is known already.
            samples: number of the last sample that is known already.
            check: asked once a second, and before the end is told; what it raises ends the following.
        """
        self._job = job
        self._check = check
        self._offsets = dict(offsets)
        self._samples = SampleReader(job.file(SAMPLES), samples)
        self._files = {
            name: os.open(job.file(f"{name}.log"), os.O_RDONLY) for name in ("stdout", "stderr")
        }
        self.end: dict[str, Any] | None = None

    def chunks(self) -> Iterator[tuple[str, int, bytes]]:
        moved = looked = time.monotonic()
        while True:
            # Asked before the logs are read, so that nothing written before the end is missed.
            ended = self._job.end()
            now = time.monotonic()
            if ended is None and now - looked > 1:
                self._check()
                looked, ended = now, self._job.end_without_supervisor()
            for chunk in self._unread():
                moved = now
                yield chunk
            for number, data in self._samples.due(now, last=ended is not None):
                yield "samples", number, data
            if ended is not None:
                self._check()
                self.end = ended
                return
            time.sleep(next(pause for silent, pause in self.PAUSES_S if now - moved <= silent))

    def _unread(self) -> Iterator[tuple[str, int, bytes]]:
        for name, descriptor in self._files.items():
            while True:
                data = os.pread(descriptor, CHUNK_BYTES, self._offsets[name])
                if not data:
                    break
                offset = self._offsets[name]
                self._offsets[name] += len(data)
                yield name, offset, data

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
