"""CPython's own tests of `concurrent.futures`, where a Python on this computer has brought them; none of their text is here."""

from __future__ import annotations

import functools
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_NAME = "test_concurrent_futures"
# A package since 3.12, one file before.
_PARTS = ("util", "test_future", "test_wait", "test_as_completed")
_OTHERS = [f"python3.{minor}" for minor in (11, 12, 13, 14)]


@functools.cache
def modules() -> tuple[ModuleType, ...]:
    """The modules that hold the tests and what these share; empty where no Python here has them."""
    place = next(_places(), None)
    if place is None:
        return ()
    package = importlib.import_module("test")
    # What this interpreter has itself goes first: another's folder only adds what is missing.
    if str(place) not in package.__path__:
        package.__path__.append(str(place))
    if (place / f"{_NAME}.py").exists():
        return (importlib.import_module(f"test.{_NAME}"),)
    return tuple(importlib.import_module(f"test.{_NAME}.{part}") for part in _PARTS)


def _places() -> Iterator[Path]:
    """Folders with the tests: of this interpreter, else of another of a minor that Dayfly runs on."""
    own = [Path(folder) for folder in importlib.import_module("test").__path__]
    found = [Path(python).resolve() for name in _OTHERS if (python := shutil.which(name))]
    found += sorted((Path.home() / ".pyenv/versions").glob("3.1[1-9].*/bin/python3"))
    others = [each for python in found for each in python.parent.parent.glob("lib/python3.*/test")]
    for folder in [*own, *others]:
        if (folder / f"{_NAME}.py").exists() or (folder / _NAME / "test_future.py").exists():
            yield folder
