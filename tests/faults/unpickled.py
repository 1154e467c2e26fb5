"""Watches this process for anything that is unpickled, and makes pickles that betray themselves."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_seen: list[str] = []
_armed = False


class Bomb:
    """Leaves a file where it is unpickled, in whatever process."""

    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._sentinel),)


def bomb(sentinel: Path) -> bytes:
    """The pickle of one."""
    return pickle.dumps(Bomb(sentinel), protocol=4)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # The interpreter's own event: nothing that looks up a global while it unpickles gets past it.
    if _armed and event == "pickle.find_class":
        _seen.append(".".join(map(str, arguments)))


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Gives a list that takes the name of every global that is looked up by unpickling meanwhile."""
    global _armed  # noqa: PLW0603  # an audit hook cannot be taken away again
    _seen.clear()
    _armed = True
    try:
        yield _seen
    finally:
        _armed = False


sys.addaudithook(_hook)
