"""The part that cannot travel is found by trials, in few of them, whatever holds it."""

from __future__ import annotations

import collections
import functools
import pickle
import threading
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from dayfly.runtime import culprit
from dayfly.runtime.culprit import Search, advice

LOCK = threading.Lock()


class Trials:
    """Counts how often something was pickled."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, obj: Any) -> BaseException | None:
        self.count += 1
        try:
            cloudpickle.dumps(obj)
        except Exception as exc:  # noqa: BLE001 - as the real one
            return exc
        return None


def none(module: ModuleType) -> Mapping[str, Any]:
    return {}


def path_in(obj: Any) -> str | None:
    found = Search(Trials(), none).find([("it", obj)])
    return found.path if found else None


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = LOCK


class OwnState:
    def __getstate__(self) -> object:
        return ["x", LOCK]


class OwnList(list[Any]):
    pass


class OwnDict(dict[str, Any]):
    pass


class Raising:
    def __reduce_ex__(self, protocol: object) -> Any:
        raise ValueError("not me")

    def method(self) -> None:
        """Bound to what cannot travel."""

    def __repr__(self) -> str:
        raise RuntimeError


Pair = collections.namedtuple("Pair", ["left", "right"])


def defaulted(lock: Any = LOCK) -> None:
    """A default travels with its function."""


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (LOCK, "it"),
        ([1, (2, {"a": {LOCK}})], f"it, [1][1]['a'], item {LOCK!r}"),
        (SimpleNamespace(inner=SimpleNamespace(lock=LOCK)), "it, .inner.lock"),
        (Slotted(), "it, .lock"),
        (OwnState(), "it, its state, [1]"),
        (OwnList([0, LOCK]), "it, [1]"),
        (OwnDict(a=LOCK), "it, ['a']"),
        (Pair(1, LOCK), "it, .right"),
        (functools.partial(print, 1, LOCK), "it, argument 2"),
        (functools.partial(print, end=LOCK), "it, argument 'end'"),
        (Raising(), "it"),
        (Raising().method, "it, .__self__"),
        ({Raising(): 1}, None),
    ],
    # A path may hold the address of an object, and a test has one name in all processes that share the suite.
    ids=lambda value: "path" if isinstance(value, str) else None,
)
def test_the_way_to_the_part(obj: Any, path: str | None) -> None:
    """Through containers, attributes, slots, states, partials and methods."""
    found = path_in(obj)
    assert found is not None
    assert found == path if path else found.startswith("it, key <")


def test_functions_are_read_through() -> None:
    """Defaults and attributes; the name is not repeated."""

    def function(lock: Any = LOCK) -> None: ...

    def other() -> None: ...

    other.lock = LOCK  # type: ignore[attr-defined]
    assert path_in(function) == "it, function function, default of 'lock'"
    assert path_in(other) == "it, function other, .lock"


def test_what_can_travel_has_no_culprit() -> None:
    """Also where it is a circle."""
    circle: list[Any] = [1]
    circle.append(circle)
    assert path_in(circle) is None


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a hundred thousand items seventeen trials lead to the one; without trials left the part itself is named."""
    trials = Trials()
    found = Search(trials, none).find([("it", [0] * 100_000 + [LOCK])])
    assert found is not None
    assert found.path == "it, [100000]"
    assert trials.count < 40
    monkeypatch.setattr(culprit, "MAX_TRIALS", 3)
    assert path_in([[[[[LOCK]]]]]).startswith("it")  # type: ignore[union-attr]
    monkeypatch.setattr(culprit, "MAX_TRIALS", 400)
    monkeypatch.setattr(culprit, "MAX_DEPTH", 2)
    assert path_in([[[[[LOCK]]]]]) == "it, [0][0]"


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (LOCK, "make it inside the function"),
        ((n for n in [1]), "pass a list"),
        (SimpleNamespace(), "what it is made from"),
    ],
)
def test_the_advice_suits_the_part(leaf: Any, words: str) -> None:
    """What to do instead."""
    assert words in advice(leaf, pickle.PicklingError("x"))
