"""Finds the one part that keeps a function or an argument from travelling, and names the way to it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dayfly.runtime.imports import names_in
from dayfly.runtime.pickler import bare_function

MAX_TRIALS = 400
MAX_DEPTH = 40

# An object is tried by pickling it; the answer is the error, or None where it can travel.
Trial = Callable[[Any], BaseException | None]
Child = tuple[str, Any]


@dataclass(frozen=True)
class Culprit:
    """The part that cannot travel: where it is, what it is and why not."""

    path: str
    leaf: Any
    error: BaseException


@dataclass
class Search:
    """One search, bounded in trials and depth; a cycle is walked once.

    Attributes:
        trial: tells why an object cannot be pickled.
        attributes: the variables of one of the user's modules that would travel.
    """

    trial: Trial
    attributes: Callable[[types.ModuleType], Mapping[str, Any]]
    _trials: int = 0
    _seen: dict[int, Any] = field(default_factory=dict)

    def find(self, parts: Sequence[Child]) -> Culprit | None:
        """The culprit among named parts; None where each of them alone can travel."""
        found = self._among(list(parts), "", 0)
        if isinstance(found, Culprit):
            return found
        # The search may end in a circle or at its bounds; then the part itself is as near as it came.
        failing = ((label, part, self.trial(part)) for label, part in parts)
        return next((Culprit(*failed) for failed in failing if failed[2] is not None), None)  # type: ignore[arg-type]

    def _among(self, parts: list[Child], path: str, depth: int) -> Culprit | bool:
        """The culprit below one of the parts, else whether any part failed at all."""
        failed = False
        while (position := self._first_failing(parts)) is not None:
            failed = True
            label, child = parts.pop(position)
            if id(child) in self._seen:
                continue
            self._seen[id(child)] = child
            found = self._inside(child, _joined(path, label), depth)
            if found is not None:
                return found
        return failed

    def _inside(self, obj: Any, path: str, depth: int) -> Culprit | None:
        children = self._children(obj) if depth < MAX_DEPTH else []
        found = self._among(children, path, depth + 1)
        if isinstance(found, Culprit):
            return found
        if found:
            return None  # All that fails in it leads back to where the search has been.
        error = self.trial(obj)
        return Culprit(path, obj, error) if error is not None else None

    def _first_failing(self, parts: Sequence[Child]) -> int | None:
        """Halves, so that one lock in a million items takes twenty trials."""
        low, high = 0, len(parts)
        if not parts or not self._fails(parts):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fails(parts[low:middle]) else (middle, high)
        return low

    def _fails(self, parts: Sequence[Child]) -> bool:
        self._trials += 1
        if self._trials > MAX_TRIALS:
            return False
        return self.trial([child for _, child in parts]) is not None

    def _children(self, obj: Any) -> list[Child]:
        try:
            return self._of_known(obj)
        except Exception:  # noqa: BLE001 - properties and __reduce_ex__ of the user's classes may do anything
            return []

    def _of_known(self, obj: Any) -> list[Child]:
        obj = bare_function(obj)
        if isinstance(obj, types.ModuleType):
            return [(f".{name}", value) for name, value in self.attributes(obj).items()]
        if isinstance(obj, type | types.FunctionType):
            return _of_code(obj)
        if isinstance(obj, types.MethodType):
            return [(".__self__", obj.__self__), ("", obj.__func__)]
        if isinstance(obj, functools.partial):
            named = [(f"argument {name!r}", value) for name, value in obj.keywords.items()]
            numbered = [(f"argument {n}", value) for n, value in enumerate(obj.args, 1)]
            return [*numbered, *named, ("", obj.func)]
        return _of_container(obj) or _of_instance(obj)


def _of_code(obj: type | types.FunctionType) -> list[Child]:
    if obj.__module__ is not None and obj.__module__.partition(".")[0] == "dayfly":
        return []  # Nothing inside it is the reason.
    if isinstance(obj, types.FunctionType):
        return _of_function(obj)
    return [(f".{name}", _unwrapped(value)) for name, value in vars(obj).items()]


def _of_function(function: types.FunctionType) -> list[Child]:
    name = function.__name__
    children: list[Child] = []
    for variable, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        try:
            children.append((f"closure variable {variable!r}", cell.cell_contents))
        except ValueError:  # A name that is not bound yet.
            continue
    space = function.__globals__
    mentioned = sorted(n for n in names_in(function.__code__) if n in space)
    children += [(f"global variable {n!r}", space[n]) for n in mentioned]
    defaults = inspect.signature(function, follow_wrapped=False).parameters.values()
    children += [
        (f"default of {p.name!r}", p.default) for p in defaults if p.default is not p.empty
    ]
    children += [(f".{n}", value) for n, value in vars(function).items()]
    return [(f"function {name}, {label}", child) for label, child in children]


def _of_container(obj: Any) -> list[Child]:
    if isinstance(obj, dict):
        keys = [(f"key {_short(key)}", key) for key in obj]
        return [(f"[{_short(key)}]", value) for key, value in obj.items()] + keys
    if isinstance(obj, list | tuple):
        fields = getattr(obj, "_fields", None)
        if fields:
            return [(f".{name}", value) for name, value in zip(fields, obj, strict=True)]
        return [(f"[{n}]", value) for n, value in enumerate(obj)]
    if isinstance(obj, set | frozenset):
        return [(f"item {_short(value)}", value) for value in obj]
    return []


def _of_instance(obj: Any) -> list[Child]:
    """What pickling would look at: the parts of `__reduce_ex__`, its state by attribute."""
    children: list[Child] = []
    reduced = obj.__reduce_ex__(4)
    if not isinstance(reduced, tuple):
        return []
    for part in reduced[2:3]:
        states = part if isinstance(part, tuple) and len(part) == 2 else (part,)
        for state in states:
            if isinstance(state, dict):
                children += [(f".{name}", value) for name, value in state.items()]
            elif state is not None:
                children.append(("its state", state))
    children += (
        [(f"[{n}]", value) for n, value in enumerate(reduced[3] or ())] if len(reduced) > 3 else []
    )
    if len(reduced) > 4 and reduced[4] is not None:
        children += [(f"[{_short(key)}]", value) for key, value in reduced[4]]
    children += [("", part) for part in reduced[1] if part is not type(obj)]
    children.append((f"class {type(obj).__name__}", type(obj)))
    return children


def _unwrapped(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__
        text = object.__repr__(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _joined(path: str, label: str) -> str:
    """ "argument 2" + ".model" + "[0]" reads "argument 2, .model[0]"."""
    if not path or not label:
        return path or label
    last = path.rpartition(", ")[2]
    if label[0] in ".[" and last[0] in ".[":
        return path + label
    # A function reached as "global variable 'helper'" need not be named a second time.
    prefix, comma, rest = label.partition(", ")
    if (
        comma
        and prefix.startswith("function ")
        and (path.startswith(prefix) or last.startswith(("global", "closure")))
    ):
        label = rest
    return f"{path}, {label}"


def advice(leaf: Any, error: BaseException) -> str:
    """What to do about a part that cannot travel."""
    kind = type(leaf).__name__.lower()
    if "belongs to Dayfly" in str(error):
        return "leave Dayfly's own objects out of what the function uses"
    if "generator" in kind:
        return "pass a list"
    if "lock" in kind or kind in ("condition", "semaphore", "event", "thread"):
        return "make it inside the function"
    if any(word in kind for word in ("socket", "connection", "cursor", "session", "client", "io")):
        return "open it inside the function, and pass what it is opened with (an address, a path)"
    return "make it inside the function, or pass what it is made from"
