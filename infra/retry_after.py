"""Retry-After: how long a server that is busy asks to wait. Standard library only, since it travels with what fetches data."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


def seconds(text: str | None) -> float | None:
    """The header's value in seconds from now, whether it is a number or a date; None where it says nothing of use."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
