"""A result that has come home: authentic for its run, or not touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dayfly.errors import Forged
from dayfly.runtime import agent, outcome

RESULT = "result.sealed"


def value(directory: Path, name: str = "", *, nested: bool = False) -> Any:
    """The value that a run's result holds.

    Args:
        directory: the run's own.
        name: how an exception names it, where not by its id.
        nested: as of `outcome.unpack`.

    Raises:
        Forged: the file is not what the run's machine sealed; nothing of it was unpickled.
        Exception: the function's own.
    """
    return outcome.unpack(unsealed(directory), run_id=name or directory.name, nested=nested)


def unsealed(directory: Path) -> bytes:
    """The result's header and pickle.

    Raises:
        Forged: as above.
    """
    key = (directory / "hmac_key").read_bytes()
    sealed = (directory / RESULT).read_bytes()
    try:
        return agent.unseal(key, directory.name, agent.RESULT_SEQ, sealed)
    except agent.FrameError as error:
        raise Forged(f"{directory / RESULT} is not authentic: {error}") from error


def summary(result: bytes) -> dict[str, Any]:
    """What the journal keeps of a result: all of its header but the long texts."""
    header: dict[str, Any] = json.loads(result[: result.index(b"\n")])
    return {name: value for name, value in header.items() if name not in ("text", "traceback")}
