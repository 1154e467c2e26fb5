"""Emulators of clouds: they are on this computer, and their time may go faster than ours."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from dayfly.errors import ConfigurationError


def is_here(url: str) -> bool:
    """Whether an address is one of this computer's own, as every emulator's is."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def time_scale(variable: str, url_variable: str, *, emulated: bool) -> float:
    """How many of an API's seconds pass in one of ours: 1, but for an emulator that says otherwise.

    Args:
        variable: the one that says it.
        url_variable: the one that says where the emulator is.
        emulated: whether there is one.

    Raises:
        ConfigurationError: what it says is not a number of at least 1, or is meant for the real API.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return 1.0
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 1 <= scale < float("inf") or not emulated:
        raise ConfigurationError(
            f"{variable}={text} must be a number of at least 1, and is for emulators only: it needs"
            f" {url_variable} beside it"
        )
    return scale
