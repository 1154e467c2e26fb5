"""Watched: tells in microseconds that a function is what it was, so that it need not be pickled to see that."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from dayfly.runtime import imports
from dayfly.runtime.project import Project

# What cannot change by itself: only the name that holds it can be given another one.
_FIXED = (int, float, complex, bool, str, bytes, type(None), BuiltinFunctionType)
_NOTHING = object()
_Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Watched:
    """Every place that a function's meaning hangs on, with what stood there.

    Attributes:
        places: how to look, where, and what was seen there.
    """

    places: tuple[tuple[_Read, Any, Any], ...]

    @classmethod
    def of(cls, function: object, project: Project) -> Watched | None:
        """The places of a plain function.

        Args:
            function: the bare function.
            project: what of it is the user's own.

        Returns:
            None where something that it uses can change in place (a list, an object, a class or a module of the user's), so
            that only pickling it again can tell.
        """
        if cloudpickle.list_registry_pickle_by_value():
            return None  # What the user has registered is taken along by value, wherever it comes from.
        walk = _Walk(project)
        return cls(tuple(walk.places)) if walk.sees(function) else None

    def is_unchanged(self) -> bool:
        """Whether everything still stands where it stood."""
        for read, place, seen in self.places:  # noqa: SIM110 - looked at before each call, where `all` takes twice as long
            if read(place) is not seen:
                return False
        return True


class _Walk:
    """From a function to everything that it uses."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._found: dict[int, FunctionType] = {}
        self.places: list[tuple[_Read, Any, Any]] = []

    def sees(self, value: object) -> bool:
        """Whether a value cannot change but by what is watched."""
        if isinstance(value, ModuleType):
            return not self._project.owns(value) and value.__name__ not in ("__main__", "dayfly")
        if type(value) is tuple:
            return all(map(self.sees, value))
        if isinstance(value, FunctionType):
            return self._is_installed(value) or self._sees_function(value)
        if isinstance(value, type):
            # Of Dayfly's own some travel in a form of their own.
            return value.__module__.partition(".")[0] != "dayfly" and self._is_installed(value)
        return type(value) in _FIXED

    def _is_installed(self, value: FunctionType | type) -> bool:
        """It goes by its name, and is there what the environment makes it."""
        module = sys.modules.get(value.__module__ or "")
        if module is None or module.__name__ == "__main__" or self._project.owns(module):
            return False
        try:
            return operator.attrgetter(value.__qualname__)(module) is value
        except AttributeError:
            return False

    def _sees_function(self, function: FunctionType) -> bool:
        if id(function) in self._found:
            return True
        self._found[id(function)] = function
        if vars(function) or function.__kwdefaults__ or self._imports_own(function):
            return False
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            self._watch(operator.attrgetter(name), function)
        used = [*(function.__defaults__ or ()), *self._used(function)]
        return all(map(self.sees, used))

    @staticmethod
    def _imports_own(function: FunctionType) -> bool:
        """What is imported within it may be the user's own module, which is taken along as it is then."""
        package = function.__globals__.get("__package__") or ""
        names = [found.module for found in imports.of_code(function.__code__, package)]
        return any(name.partition(".")[0] not in sys.stdlib_module_names for name in names)

    def _used(self, function: FunctionType) -> list[Any]:
        """The globals and closed-over variables that its code names; a name that is not there yet may come."""
        space = function.__globals__
        used = [
            self._watch(lambda space, name=name: space.get(name, _NOTHING), space)  # type: ignore[misc]
            for name in imports.names_in(function.__code__)
        ]
        used += [self._watch(_content, cell) for cell in function.__closure__ or ()]
        return [value for value in used if value is not _NOTHING]

    def _watch(self, read: _Read, place: object) -> Any:
        seen = read(place)
        self.places.append((read, place, seen))
        return seen


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _NOTHING
