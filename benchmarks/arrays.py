"""What the rows of an array's way have in common: 100 MB there or back through a warm call, against scp, execnet and mitogen on the same server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from benchmarks import carrying, machine, peers, place
from benchmarks.machine import Bench
from benchmarks.peers import BLOCK_BYTES, BLOCKS, BYTES
from benchmarks.place import TrialFailed
from benchmarks.report import Row, Say
from tests.warm import WAIT_S, begun

Array = NDArray[numpy.float64]

_TRIALS = 3
_MOST, _MOST_OF_OTHERS = 1.3, 0.1
_OTHERS = ("execnet", "mitogen")


def made() -> Array:
    """An array of 100 MB that nothing makes smaller on its way."""
    return numpy.tile(numpy.frombuffer(os.urandom(BLOCK_BYTES)), BLOCKS)


def last_byte(array: Array) -> int:
    """Takes one."""
    return int(array.view(numpy.uint8)[-1])


def measure(name: str, kind: str, say: Say) -> Row:
    """The row: the best of each, measured in turn.

    Args:
        name: of the row.
        kind: "in" or "out".
        say: told what was measured.

    Raises:
        TrialFailed: a peer that is there did not carry it.
    """
    missing = peers.missing(_OTHERS)
    best: dict[str, float] = {}
    with (
        machine.running() as bench,
        bench.connected(),
        _calling(bench, kind) as ours,
        place.new_home() as home,
    ):
        acts = {"ours": ours, "scp": _scp(bench, kind)}
        acts |= {peer: _other(peer, kind, bench, home) for peer in _OTHERS if peer not in missing}
        for number in range(_TRIALS):
            for who, act in acts.items():
                best[who] = min(best.get(who, float("inf")), act())
            say(f"{number + 1} of {_TRIALS}: best {_shown(best)}")
    return row(name, best, missing)


def row(name: str, best: Mapping[str, float], missing: Sequence[str]) -> Row:
    """The row of these times in seconds; a peer that could not be asked is no promise kept.

    Args:
        name: of the row.
        best: by who carried it: "ours", "scp", and those of the others that are installed.
        missing: the rest of the others.
    """
    value = best["ours"]
    others = {peer: best[peer] for peer in _OTHERS if peer in best}
    holds = value <= _MOST * best["scp"] and not missing
    holds = holds and all(value <= _MOST_OF_OTHERS * other for other in others.values())
    notes = [
        f"{peer} took {other:.2f} s, ours {value / other:.3f} of that"
        for peer, other in others.items()
    ]
    return Row(
        name,
        round(value, 3),
        "scp",
        round(best["scp"], 3),
        "s",
        f"<= {_MOST:g} x peer and <= {_MOST_OF_OTHERS:g} x {' and '.join(_OTHERS)}",
        holds,
        (*notes, *map(peers.advice, missing)),
    )


def _shown(best: Mapping[str, float]) -> str:
    return ", ".join(f"{who} {seconds:.3f} s" for who, seconds in best.items())


@contextlib.contextmanager
def _calling(bench: Bench, kind: str) -> Iterator[Callable[[], float]]:
    """One call of a warm run on the bench's machine, timed from the call to its value."""
    function: Callable[..., Any] = last_byte if kind == "in" else made
    how, more = {"slots": 1}, {"python": sys.executable}
    with begun(bench.server, bench.folder, None, how, more) as run:
        calls = run.calls(function)
        array = made()
        arguments: tuple[Array, ...] = (array,) if kind == "in" else ()

        def timed() -> float:
            values: list[Any] = []
            took = machine.timed(
                lambda: values.append(calls.submit_all([(arguments, {})])[0].result(WAIT_S))
            )
            _check(values[0] if kind == "out" else array, values[0])
            return took

        timed()  # The first one brings the function, and imports NumPy there.
        yield timed


def _check(array: Array, value: object) -> None:
    """All of it has come, and as it was."""
    first, last = array[: BLOCK_BYTES // 8], array[-BLOCK_BYTES // 8 :]
    whole = array.nbytes == BYTES and first.tobytes() == last.tobytes()
    if not whole or (value is not array and value != last_byte(array)):
        raise TrialFailed("what came is not what was sent")


def _scp(bench: Bench, kind: str) -> Callable[[], float]:
    """The same number of bytes as a file, in memory at both ends."""
    source = machine.random_file(bench.folder / "array", BYTES)
    return carrying.peer(bench, "scp", source, bench.folder / "copy", up=kind == "in")


def _other(peer: str, kind: str, bench: Bench, home: Path) -> Callable[[], float]:
    """A fresh client of a peer, over the system's ssh to the same server."""
    folder = bench.server.log.parent
    (folder / "host_key.pub").write_text(bench.server.machine.host_key + "\n")
    return lambda: float(place.trial(f"trial_{peer}", home, kind, str(folder), str(bench.port)))
