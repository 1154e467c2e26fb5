"""Late look: when the provider of a closed run is to be asked once more, since before then no listing could show everything
that it may have made. Standard library only."""

from __future__ import annotations

import contextlib
from pathlib import Path

FILE = "look_again"


def put(directory: Path, at: float) -> None:
    """Asks for one.

    Args:
        directory: the run's own.
        at: unix time.
    """
    (directory / FILE).write_text(f"{at}\n", encoding="ascii")


def due(directory: Path) -> float | None:
    """Unix time of the one that is asked for, None without one; a file that cannot be understood asks for one now."""
    try:
        return float((directory / FILE).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return 0.0


def done(directory: Path) -> None:
    """It has been taken."""
    with contextlib.suppress(FileNotFoundError):
        (directory / FILE).unlink()
