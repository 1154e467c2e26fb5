"""How long an emulator lives that is a process of its own: until a signal, or until its standard input closes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import IO

_END_S = 30.0


def ended(*, until_stdin_closes: bool) -> int:
    """A descriptor that has something to be read when the end has come.

    Args:
        until_stdin_closes: for tests: with whoever has started it, it ends.
    """
    # Written to by whichever thread the kernel gives the signal: a handler would wait for the main one, which reads.
    ended, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    if until_stdin_closes:
        threading.Thread(target=_until_closed, args=(end,), daemon=True).start()
    return ended


def _until_closed(end: int) -> None:
    while os.read(0, 4096):
        pass
    os.write(end, b".")


def end(process: subprocess.Popen[str], *streams: IO[str] | None) -> None:
    """Has an emulator end, and returns when it has; whatever it does not end in time is killed with it.

    Args:
        process: its own.
        streams: to be closed then, beside its standard input and output.
    """
    process.terminate()
    try:
        process.wait(_END_S)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, *streams):
            if stream is not None:
                stream.close()
