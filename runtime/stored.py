"""A result that has come home: authentic for its run, or not touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dayfly.errors import Forged
from dayfly.runtime import outcome
from dayfly.runtime.agent import frames

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
    with _opened(directory) as result:
        return outcome.load(result, run_id=name or directory.name, nested=nested)


def calls(directory: Path) -> dict[int, bytes]:
    """The results that a warm run has left, by call.

    Raises:
        Forged: as above.
    """
    with _opened(directory) as result:
        result.readline()
        return dict(outcome.calls(result))


def summary(directory: Path) -> dict[str, Any]:
    """What the journal keeps of a result that was authentic when it came: all of its header but the long texts."""
    with (directory / RESULT).open("rb") as result:
        result.seek(frames.HEADER_BYTES)
        header = outcome.header_of(result)
    return {name: value for name, value in header.items() if name not in ("text", "traceback")}


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[BinaryIO]:
    """The result's header and pickle, all of it checked: what is large is not in memory for that."""
    key = (directory / "hmac_key").read_bytes()
    path = directory / RESULT
    try:
        result = frames.open_sealed(key, directory.name, frames.RESULT_SEQ, str(path))
    except frames.FrameError as error:
        raise Forged(f"{path} is not authentic: {error}") from error
    with result:
        yield result
