"""A long line: the tests' proxy with a round trip, in a process of its own, so that it costs a client only its time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import place


@contextlib.contextmanager
def away(port: int, round_trip_s: float) -> Iterator[int]:
    """A port on loopback that leads to `port`, with so long a round trip, for as long as the block lasts."""
    command = [sys.executable, "-m", "tests.proxy", str(port), str(round_trip_s)]
    with subprocess.Popen(
        command, cwd=place.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
