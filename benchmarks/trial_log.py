"""A hundred lines of a function, each with the time at which it was written, timed as they reach this process's stdout."""

import io
import json
import sys
import time

from dayfly import cluster

LINES = 100
PAUSE_S = 0.02


class Clock(io.TextIOBase):
    """A stdout that notes when each line is complete."""

    def __init__(self) -> None:
        self.delays_ms: list[float] = []
        self._rest = ""

    def write(self, text: str) -> int:
        now = time.time_ns()
        *lines, self._rest = (self._rest + text).split("\n")
        self.delays_ms += [(now - int(line)) / 1e6 for line in lines]
        return len(text)


@cluster(provider="local", environment=[])
def tell_the_time(lines: int, pause_s: float) -> None:
    """Prints the time, again and again."""
    for _ in range(lines):
        print(time.time_ns())
        time.sleep(pause_s)


if __name__ == "__main__":
    terminal, clock = sys.stdout, Clock()
    sys.stdout = clock
    tell_the_time(LINES, PAUSE_S)
    sys.stdout = terminal
    print(json.dumps(clock.delays_ms))
