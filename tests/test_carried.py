"""What travels with every call makes the user's modules importable where they are not."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator

import cloudpickle
import pytest

from dayfly.runtime import carried
from dayfly.runtime.cluster import RemoteFunction


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    modules, finders = set(sys.modules), list(sys.meta_path)
    registered = cloudpickle.list_registry_pickle_by_value()
    yield
    for name in set(sys.modules) - modules:
        if name in cloudpickle.list_registry_pickle_by_value() - registered:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
        del sys.modules[name]
    sys.meta_path[:] = finders


def test_a_made_module_is_found_by_import_and_filled_later() -> None:
    """It travels by value from there on, because the client may have no such module."""
    made = carried.module("made_here", "Words.")
    carried.complete([(made, {"x": 5})], {}, None)
    found = importlib.import_module("made_here")
    assert (found.x, found.__doc__) == (5, "Words.")
    assert "made_here" in cloudpickle.list_registry_pickle_by_value()


def test_a_module_that_is_there_is_left_alone() -> None:
    """The machine's own modules are not replaced under its feet."""
    import json

    assert carried.module("json", None) is not json
    assert sys.modules["json"] is json


def test_sources_are_imported_as_from_files() -> None:
    """Packages, relative imports and the text for tracebacks."""
    sources = {
        "served": ("from .inner import f\n", "/far/served/__init__.py", True),
        "served.inner": ("def f():\n    return 7\n", "/far/served/inner.py", False),
    }
    carried.complete([], sources, None)
    served = importlib.import_module("served")
    assert served.f() == 7
    assert served.__file__ == "/far/served/__init__.py"
    assert inspect.getsource(served.f) == "def f():\n    return 7\n"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("served.absent")


def test_a_coroutine_is_run_and_content_is_given() -> None:
    """In an event loop of its own."""

    async def add(a: int, *, b: int) -> int:
        return a + b

    assert carried.run_coroutine(add, 1, b=2) == 3
    assert carried.opened("content", None) == "content"


def test_every_verb_of_a_function_is_refused_on_a_machine_of_another() -> None:
    """Found by listing, so that a new one is refused in words, too; the bare function can be called there."""

    def train(x: int) -> int:
        return x + 1

    there = carried.Elsewhere(train)
    public = {name for name in vars(RemoteFunction) if not name.startswith("_")} - {"local"}
    told = {"spec", "policies"}
    for name in public - told:
        with pytest.raises(RuntimeError, match=r"write train\.local"):
            getattr(there, name)(3)
        with pytest.raises(RuntimeError, match=r"write train\.local"):
            getattr(there, name).aio(3)
    for name in told | {"planned"}:
        with pytest.raises(RuntimeError, match="only the client knows its options"):
            getattr(there, name)
    with pytest.raises(RuntimeError, match=r"write train\.local"):
        there(3)
    assert there.local(3) == 4
    again = cloudpickle.loads(cloudpickle.dumps(there))
    with pytest.raises(RuntimeError, match=r"write train\.local"):
        again.map_unordered([3])
