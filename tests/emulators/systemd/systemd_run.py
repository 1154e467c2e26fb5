"""The stand-in `systemd-run`: one command after --on-active seconds, in an environment of its own."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
FLAGS = {"--quiet", "--collect"}
OPTIONS = {"--on-active", "--timer-property", "--setenv", "--unit"}


def main(arguments: list[str]) -> int:
    """Take the order and leave a process that waits for its time."""
    options: dict[str, list[str]] = {name: [] for name in OPTIONS}
    while arguments and arguments[0].startswith("--"):
        word, *arguments = arguments
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in FLAGS:
            continue
        if name not in OPTIONS:
            print(f"systemd-run: unrecognized option '{word}'", file=sys.stderr)
            return 1
        if not equals:
            value, *arguments = arguments
        options[name].append(value)
    unit, seconds = options["--unit"][0], float(options["--on-active"][0].removesuffix("s"))
    with (FOLDER / "units").open("a") as file:
        file.write(f"{unit}\t{seconds}\t{' '.join(arguments)}\n")
    environment = {"PATH": f"{FOLDER}/bin:{os.defpath}"}
    environment |= dict(each.split("=", 1) for each in options["--setenv"])
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        time.sleep(seconds)
        os.execve(arguments[0], arguments, environment)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
