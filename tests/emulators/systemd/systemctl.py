"""The stand-in `systemctl`: is-system-running, is-active and poweroff."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Answer one command line and give its exit code."""
    if arguments == ["is-system-running"]:
        state = (FOLDER / "state").read_text()
        print(state)
        return 0 if state == "running" else 1
    if arguments[:1] == ["is-active"]:
        print("inactive")
        return 3
    if arguments in (["poweroff"], ["poweroff", "--force"]):
        with (FOLDER / "powered-off").open("a") as file:
            file.write(" ".join(arguments) + "\n")
        return 0
    print(f"Unknown command verb {' '.join(arguments)}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
