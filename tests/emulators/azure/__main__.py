"""`python -m tests.emulators.azure`: the emulator in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading

from tests.emulators.azure.emulator import Emulator
from tests.emulators.azure.options import Options


def main() -> None:
    """Prints lines to paste into a shell, and waits."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulators.azure",
        description="An emulator of Azure on loopback; its virtual machines are real SSH servers and cost nothing.",
    )
    parser.add_argument("--port", type=int, default=0, help="of the API; a free one by default")
    parser.add_argument("--no-machines", action="store_true", help="rows only: needs no root")
    asked = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        with Emulator(Options(machines=not asked.no_machines), port=asked.port) as azure:
            for name, value in azure.environment().items():
                print(f"export {name}={shlex.quote(value)}", flush=True)
            ended.wait()
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
