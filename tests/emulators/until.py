"""Waiting for what an emulator does by itself."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits for what the emulator does by itself, and fails when it does not."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)
