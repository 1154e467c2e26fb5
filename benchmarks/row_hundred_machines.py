"""Row `hundred_machines`: a session with each of a hundred machines at once."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.machine import Bench
from benchmarks.report import Row, Say
from dayfly.runtime.session import Session
from tests.sshd import sshd

_MACHINES = 100
_AT_ONCE = 32
_TRIALS = 3
_MOST_MS, _MOST_BYTES = 25.0, 60 << 20


def measure(say: Say) -> Row:
    """connect to 100 machines, start the agent on each and have it answer; per machine, against ssh host true, 32 at once; best of 3 in turn"""
    most = 0
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(_AT_ONCE) as pool:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dayfly-bench-")))
        benches = []
        for number in range(_MACHINES):
            place = folder / str(number)
            server = stack.enter_context(sshd(place / "machine"))
            benches.append(Bench(server, place, server.machine.port))
        # What is loaded once, for the first of them, is no part of what each costs.
        with benches[0].session() as first:
            first.status()

        def ours() -> float:
            nonlocal most
            with contextlib.ExitStack() as open_sessions:
                before = _resident()
                sessions = [open_sessions.enter_context(_closing(each)) for each in benches]
                took = machine.timed(lambda: list(pool.map(_open, sessions)))
                most = max(most, _resident() - before)
            return took * 1e3 / _MACHINES

        def peer() -> float:
            lines = [each.ssh("true") for each in benches]
            return machine.timed(lambda: list(pool.map(machine.command, lines))) * 1e3 / _MACHINES

        value, other = machine.in_turn(_TRIALS, ours, peer, say)
    return Row(
        "hundred_machines",
        round(value, 2),
        "ssh true",
        round(other, 2),
        "ms",
        f"<= {_MOST_MS:g} ms each, <= {_MOST_BYTES >> 20} MiB more",
        value <= _MOST_MS and most <= _MOST_BYTES,
        (f"{most / 2**20:.1f} MiB more of client memory with all of them open",),
    )


@contextlib.contextmanager
def _closing(bench: Bench):  # type: ignore[no-untyped-def]
    session = bench.session()
    try:
        yield session
    finally:
        session.close()


def _open(session: Session) -> None:
    session.__enter__()
    session.status()


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
