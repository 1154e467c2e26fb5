"""TOML files of the user's, each parsed once for each state of it: several parts of a call look into the same ones."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

from dayfly.errors import SpecError


def read(path: Path) -> dict[str, Any]:
    """What is in it, not to be changed; {} where there is no such file.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        status = path.stat() if path.is_file() else None
        return {} if status is None else _parsed(path, status.st_mtime_ns, status.st_size)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise SpecError(f"{str(path)!r} cannot be read: {exc}") from exc


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, modified_ns: int, size: int) -> dict[str, Any]:
    return tomllib.loads(path.read_text())
