"""Watched: a function is only taken for unchanged where nothing that it uses can have changed."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly.runtime import payload
from dayfly.runtime.unchanged import Watched

NUMBER = 1
NUMBERS = [1]
PAIR = (1, "two")
HERE = sys.modules[__name__]


class Own:
    """The user's."""

    def method(self) -> None:
        """One of its functions."""


def helper() -> int:
    """Used by others."""
    return NUMBER


def plain(x: int = 1) -> float:
    """Uses what cannot change in place."""
    return math.sqrt(x) + helper() + len(PAIR)


def with_list() -> int:
    """Uses what can."""
    return NUMBERS[0]


def with_class() -> object:
    """A class can be written into."""
    return Own()


def with_import() -> Any:
    """Its import may find a module of the user's."""
    from tests import far

    return far


def with_installed() -> object:
    """What is installed goes by its name, a class as a function; another of that name is another one."""
    return Path(), OrderedDict, ValueError


def with_dayflys() -> object:
    """A class of Dayfly's own."""
    return Watched


def with_default(x: list[int] = NUMBERS) -> list[int]:
    """A default can be changed in place."""
    return x


def with_keyword(*, x: int = 1) -> int:
    """The dictionary of these defaults can be written into."""
    return x


def with_module() -> Any:
    """A module of the user's, whose variables are taken along."""
    return HERE.NUMBER


def watched(function: Callable[..., Any]) -> Watched | None:
    return Watched.of(function, payload.project_of(function))


def test_a_plain_function_is_unchanged_until_something_of_it_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A global, also one that only a function that it calls names, its defaults, its code, a name that comes."""
    seen = watched(plain)
    assert seen is not None
    assert seen.is_unchanged()
    for place, name, value in (
        (HERE, "NUMBER", 2),
        (HERE, "PAIR", (1, "three")),
        (HERE, "helper", plain),
        (HERE, "len", max),
        (plain, "__defaults__", (2,)),
        (helper, "__code__", (lambda: 5).__code__),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value, raising=False)
            assert not seen.is_unchanged(), name
        assert seen.is_unchanged() or name == "len", name


def test_a_class_that_is_installed_is_what_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written into it changes nothing of what travels; a subclass of the user's in its place does."""
    seen = watched(with_installed)
    assert seen is not None
    assert seen.is_unchanged()
    monkeypatch.setattr(HERE, "Path", type("Path", (Path,), {}))
    assert not seen.is_unchanged()
    # That one is nowhere by its name.
    assert watched(with_installed) is None


def test_a_closure_s_variable_is_watched() -> None:
    """By what stands in its cell."""
    number = 1

    def inner() -> int:
        return number

    seen = watched(inner)
    assert seen is not None
    assert seen.is_unchanged()
    number = 2
    assert not seen.is_unchanged()


@pytest.mark.parametrize(
    "function",
    [
        with_list,
        with_class,
        with_dayflys,
        with_import,
        with_default,
        with_keyword,
        with_module,
        Own,
        Own().method,
    ],
)
def test_what_can_change_in_place_is_never_taken_for_unchanged(
    function: Callable[..., Any],
) -> None:
    """Only pickling it again can tell."""
    assert watched(function) is None
