"""A result that has come home: authentic for its run, or not touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dayfly.errors import Forged
from dayfly.runtime import outcome
from dayfly.runtime.agent import frames

RESULT = "result.sealed"


def value(directory: Path) -> Any:
    """The value that a run's result holds.

    Raises:
        Forged: the file is not what the run's machine sealed; nothing of it was unpickled.
        Exception: the function's own.
    """
    return outcome.unpack(unsealed(directory), run_id=directory.name)


def unsealed(directory: Path) -> bytes:
    """The result's header and pickle.

    Raises:
        Forged: as above.
    """
    key = (directory / "hmac_key").read_bytes()
    sealed = (directory / RESULT).read_bytes()
    try:
        return frames.unseal(key, directory.name, frames.RESULT_SEQ, sealed)
    except frames.FrameError as error:
        raise Forged(f"{directory / RESULT} is not authentic: {error}") from error


def summary(result: bytes) -> dict[str, Any]:
    """What the journal keeps of a result: all of its header but the long texts."""
    header: dict[str, Any] = json.loads(result[: result.index(b"\n")])
    return {name: value for name, value in header.items() if name not in ("text", "traceback")}
