"""What the rows of many small files have in common: a tree that is brought to a machine 20 ms away, against rsync, which connects first, as it does each time."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from pathlib import Path

from benchmarks import far, machine
from benchmarks.machine import Bench
from benchmarks.place import TrialFailed
from benchmarks.report import Row, Say

FILES = 2000
_TRIALS = 3
_ROUND_TRIP_S = 0.02


def measure(name: str, most: float, say: Say, *, again: bool) -> Row:
    """The row of the tree: as a whole, or, when it was brought before, with 1% of it changed.

    Raises:
        TrialFailed: this computer has no rsync.
    """
    if shutil.which("rsync") is None:
        raise TrialFailed("rsync is not on this computer: install it, then measure this row again")
    with machine.running() as here, far.away(here.port, _ROUND_TRIP_S) as port:
        bench = here.through(port)
        tree = bench.folder / "tree"

        with bench.session() as session:

            def ours() -> float:
                _prepare(tree)
                if again:
                    session.put_many(_digested(tree))
                    _change(tree)
                took = machine.timed(lambda: session.put_many(_digested(tree)))
                _check(bench, tree)
                shutil.rmtree(bench.blobs)
                return took * 1e3

            def peer() -> float:
                there = bench.folder / "there"
                _prepare(tree)
                line = ["rsync", "-a", "-e", shlex.join(["ssh", *bench.options()])]
                line += [f"{tree}/", f"127.0.0.1:{there}"]
                if again:
                    machine.command(line)
                    _change(tree)
                took = machine.timed(lambda: machine.command(line))
                shutil.rmtree(there)
                return took * 1e3

            value, other = machine.in_turn(_TRIALS, ours, peer, say)
    goal, holds = f"<= {most:g} x peer", value <= most * other
    return Row(name, round(value, 1), "rsync -a", round(other, 1), "ms", goal, holds)


def _prepare(tree: Path) -> None:
    """Two thousand files of one to eight kilobytes in forty folders, none of which is anywhere yet."""
    shutil.rmtree(tree, ignore_errors=True)
    for number in range(FILES):
        folder = tree / str(number % 40)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.py").write_bytes(os.urandom(1000 + number * 3571 % 7000))


def _change(tree: Path) -> None:
    for number in range(0, FILES, 100):
        (tree / str(number % 40) / f"{number}.py").write_bytes(os.urandom(3000))


def _digested(tree: Path) -> dict[str, Path]:
    """Counted, as it has to be done each time."""
    return {
        hashlib.sha256(path.read_bytes()).hexdigest(): path
        for path in tree.rglob("*")
        if path.is_file()
    }


def _check(bench: Bench, tree: Path) -> None:
    there = {path.name for path in bench.blobs.iterdir()}
    if missing := _digested(tree).keys() - there:
        raise TrialFailed(f"{len(missing)} files are not there")
