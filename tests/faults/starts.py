"""Starts: how often functions have begun and finished that run where nobody can look; each says so over loopback."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator


class Starts:
    """What functions have said of themselves: one line "started NUMBER RUN" or "finished NUMBER RUN" a connection.

    Attributes:
        port: of loopback, where they say it; they are answered when it is counted.
    """

    def __init__(self) -> None:
        self.port = 0
        self._lock = threading.Lock()
        self._said: dict[str, Counter[tuple[int, str]]] = {
            "started": Counter(),
            "finished": Counter(),
        }

    def say(self, line: str) -> None:
        """Counts one line.

        Raises:
            ValueError, KeyError: it is none.
        """
        what, number, run = line.split()
        with self._lock:
            self._said[what][int(number), run] += 1

    @property
    def finished(self) -> int:
        """Functions that have finished, each counted once."""
        with self._lock:
            return len({number for number, _ in self._said["finished"]})

    def has_finished(self, number: int) -> bool:
        """Whether any attempt of a call has come to its end."""
        with self._lock:
            return any(number == each for each, _ in self._said["finished"])

    def run_has_finished(self, run: str) -> bool:
        """Whether the function of one run has come to its end."""
        with self._lock:
            return any(run == each for _, each in self._said["finished"])

    def finishes_of(self, run: str) -> int:
        """How often the function of one run has come to its end."""
        with self._lock:
            said = self._said["finished"].items()
            return sum(count for (_, each), count in said if each == run)

    def call_of(self, run: str) -> int | None:
        """The number of the call that a run is of; None where its function was never started."""
        with self._lock:
            return next((number for number, each in self._said["started"] if each == run), None)

    def of_run(self, run: str) -> int:
        """How often the function was started in one run."""
        with self._lock:
            return sum(count for (_, each), count in self._said["started"].items() if each == run)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256


@contextlib.contextmanager
def starts() -> Iterator[Starts]:
    """Counted for as long as the block lasts."""
    counted = Starts()

    class Listener(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            # Whoever is killed in the middle of a word has said nothing.
            with contextlib.suppress(ValueError, KeyError, OSError):
                counted.say(self.rfile.readline().decode())
                self.wfile.write(b"counted\n")

    with _Server(("127.0.0.1", 0), Listener) as server:
        counted.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield counted
        finally:
            server.shutdown()
            thread.join()
