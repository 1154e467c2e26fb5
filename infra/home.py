"""Where Dayfly keeps what it keeps: one folder a user, the same for a client and for every process that it starts."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home_path() -> Path:
    """DAYFLY_HOME, else the platform's place for a user's data."""
    override = os.environ.get("DAYFLY_HOME")
    return (
        Path(override).expanduser().absolute()
        if override
        else platformdirs.user_data_path("dayfly")
    )
