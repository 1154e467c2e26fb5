"""What the rows of large content have in common: a file there or back, against the system's own client on a warm connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import far, machine
from benchmarks.machine import Bench
from benchmarks.place import TrialFailed
from benchmarks.report import Row, Say

_TRIALS = 5


def upload(
    name: str, size: int, peer_name: str, least: float, say: Say, *, round_trip_s: float = 0.0
) -> Row:
    """The row of a file that is brought there."""
    with _bench(round_trip_s) as bench, bench.session() as session, bench.connected():
        session.status()  # Long before anything large, a session has asked for something.
        source = bench.folder / "source"

        def ours() -> float:
            machine.random_file(source, size)
            took = machine.timed(lambda: session.put(source))
            for blob in bench.blobs.iterdir():
                blob.unlink()
            return took

        there = bench.folder / "there"
        act = peer(bench, peer_name, source, there, up=True)
        return _row(name, size, peer_name, least, machine.in_turn(_TRIALS, ours, act, say))


def download(
    name: str, size: int, peer_name: str, least: float, say: Say, *, round_trip_s: float = 0.0
) -> Row:
    """The row of a result that is brought here."""
    with _bench(round_trip_s) as bench, bench.session() as session, bench.connected():
        session.status()  # Long before anything large, a session has asked for something.
        source = machine.random_file(bench.folder / "source", size)
        bench.leave_result(source)
        here = bench.folder / "here"

        def ours() -> float:
            took = machine.timed(lambda: session.fetch_result(here))
            here.unlink()
            return took

        act = peer(bench, peer_name, source, here, up=False)
        return _row(name, size, peer_name, least, machine.in_turn(_TRIALS, ours, act, say))


@contextlib.contextmanager
def _bench(round_trip_s: float) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(machine.running())
        if round_trip_s:
            port = stack.enter_context(far.away(bench.port, round_trip_s))
            bench = bench.through(port)
        yield bench


def peer(
    bench: Bench, peer_name: str, source: Path, target: Path, *, up: bool
) -> Callable[[], float]:
    """How the peer carries `source` to `target`, whichever of them is over there; gives the seconds that it takes."""

    def act() -> None:
        if peer_name == "scp":
            places = (
                [str(source), f"127.0.0.1:{target}"] if up else [f"127.0.0.1:{source}", str(target)]
            )
            machine.command(["scp", "-q", *bench.options(), *places])
        elif up:
            machine.command(bench.ssh(f"cat > {target}"), source)
        else:
            machine.command(bench.ssh(f"cat {source}"), None, target)

    def measured() -> float:
        took = machine.timed(act)
        if target.stat().st_size != source.stat().st_size:
            raise TrialFailed(f"{peer_name} carried {target.stat().st_size} bytes")
        target.unlink()
        return took

    return measured


def _row(name: str, size: int, peer_name: str, least: float, best: tuple[float, float]) -> Row:
    ours, other = (size / 1e6 / seconds for seconds in best)
    return Row(
        name,
        round(ours, 1),
        peer_name,
        round(other, 1),
        "MB/s",
        f">= {least:g} x peer",
        ours >= least * other,
    )
