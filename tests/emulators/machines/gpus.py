"""The GPUs that a machine shows, through the stand-ins of `tests.emulators.gpu`; they may lie."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.emulators import gpu
from tests.emulators.gpu import Gpu


def furnish(folder: Path, shown: Gpu | None, lie: str = "") -> None:
    """Puts `nvidia-smi` and the driver's library into the tools of a machine, if it has GPUs.

    Args:
        folder: the tools, as this computer sees them.
        shown: the GPUs.
        lie: one of `gpu.LIES`, "" for the truth.
    """
    if shown is not None:
        # Not this process's own interpreter: a virtual environment may be where the machine does not see it.
        python = str(Path(sys.base_prefix) / "bin/python3")
        gpu.furnish(folder, shown, lie, python=python)


def check(shown: Gpu | None, lie: str) -> None:
    """Before it is told.

    Raises:
        ValueError: there is no such lie, or no GPU that could tell it.
    """
    check_name(lie)
    if lie and shown is None:
        raise ValueError("the machine has no GPU that could lie")


def check_name(lie: str) -> None:
    """Refuses what is no lie.

    Raises:
        ValueError: names those that there are.
    """
    if lie and lie not in gpu.LIES:
        raise ValueError(f"no lie {lie!r}; known: {', '.join(sorted(gpu.LIES))}")
