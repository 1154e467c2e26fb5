"""Row `reattach`: how soon a log flows again when the link is back."""

from __future__ import annotations

import os
import sys
import threading
import time

from benchmarks import machine, place, report
from benchmarks.machine import Bench
from benchmarks.report import Row, Say
from dayfly.runtime import payload
from dayfly.runtime.agent import frames
from dayfly.runtime.records import Task
from tests.proxy import Proxy, proxy

_MOST_S = 0.5
_TRIALS = 5
# Long enough for the pauses between two tries to have grown.
_GONE_S = 3.0
_LIMIT_S = 30.0


def measure(say: Say) -> Row:
    """cut the link in the midst of a log for 3 s; from its return until the next line is here, 5 times"""
    heard = _Heard()
    took, problems = [], []
    with (
        machine.running() as bench,
        proxy(bench.port) as between,
        bench.through(between.port).session() as session,
    ):
        session.start(_task(bench))
        following = threading.Thread(target=session.follow, args=(heard,))
        following.start()
        try:
            for _ in range(_TRIALS):
                heard.await_next()
                took.append(_gone(bench, between, heard))
                say(f"{took[-1]:.3f} s")
        finally:
            session.stop()
            following.join()
        if heard.gaps:
            problems.append("the log has a gap or a repeat")
    return report.bound("reattach", took, _MOST_S, problems)


class _Heard:
    """A sink that knows when it had something last."""

    def __init__(self) -> None:
        self.at, self._bytes, self.gaps = 0.0, 0, 0

    def __call__(self, stream: str, offset: int, data: bytes) -> None:
        if stream == "stdout":
            self.gaps += offset != self._bytes
            self._bytes, self.at = offset + len(data), time.time()

    def await_next(self) -> float:
        now = time.time()
        place.wait("the log", lambda: self.at > now, _LIMIT_S, every_s=0.001)
        return self.at


def _gone(bench: Bench, between: Proxy, heard: _Heard) -> float:
    # Nobody answers there.
    between.target = 1
    between.cut()
    time.sleep(_GONE_S)
    between.target = bench.port
    back = time.time()
    return heard.await_next() - back


def _task(bench: Bench) -> Task:
    """A function that says something a hundred times a second."""
    packed = payload.pack(_talk, (), {})
    keys = bench.server.keys
    sealed = packed.task.sealed(keys.hmac_key, keys.run_id, frames.TASK_SEQ)
    return Task(
        sealed=sealed,
        python=os.path.realpath(sys.executable),
        pickler=payload.pickler_zip(bench.folder / "pickler"),
    )


def _talk() -> None:
    while True:
        print(time.time(), flush=True)
        time.sleep(0.01)
