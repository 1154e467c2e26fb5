"""Code of Dayfly that travels by value with every call: on the machine it makes the user's modules importable.

Dayfly is not installed there, so what stands here uses the standard library and cloudpickle alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

import cloudpickle


def module(name: str, doc: str | None) -> ModuleType:
    """Make an empty module of the project that `import` statements find; its content follows.

    One that an earlier pickle has brought is that module: the arguments of a call come after its function.
    """
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__dayfly_carried__", False):
        return present
    made = ModuleType(name, doc)
    if name not in sys.modules:
        vars(made)["__dayfly_carried__"] = True
        sys.modules[name] = made
        # What comes back as a result travels by value too: the client may read it from another folder.
        cloudpickle.register_pickle_by_value(made)
    return made


def complete(
    states: Sequence[tuple[ModuleType, Mapping[str, Any]]],
    sources: Mapping[str, tuple[str, str, bool]],
    rest: object,
) -> None:
    """Fill the modules with what was found to be used after they were made, and serve the others as source."""
    for target, state in states:
        vars(target).update(state)
    if sources:
        sys.meta_path.insert(0, SourceFinder(sources))


def opened(content: Any, rest: object) -> Any:
    """Give what was packed, once everything behind it has been loaded."""
    return content


class Elsewhere:
    """A function that has a machine of its own, on another machine: nobody here can get it that machine.

    Running it here all the same, silently, would be another place than the one that was asked for.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__dayfly_function__ = function
        self.__name__ = getattr(function, "__name__", repr(function))
        self.__doc__ = getattr(function, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"{self.__name__} is decorated with @cluster, and was called on a machine of another function, from where it"
            f" cannot get its own: write {self.__name__}.local(...) to run it on this one, or call it on the client"
        )

    # Each is this itself, so that a call of it, and of its awaitable form, is refused as its own is.
    aio = submit = map = starmap = map_unordered = session = property(lambda self: self)
    plan = plan_all_rungs = plan_fast = as_planned = with_options = property(lambda self: self)

    @property
    def spec(self) -> Any:
        """Known on the client alone."""
        raise RuntimeError(
            f"{self.__name__} is decorated with @cluster, and only the client knows its options: read them there, and pass"
            " what is needed of them as an argument"
        )

    policies = planned = spec

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Call the bare function, on this machine."""
        return self.__dayfly_function__(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return Elsewhere(self.__dayfly_function__.__get__(instance, owner))


def run_coroutine(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call an `async def` function and wait for it in an event loop of its own."""
    import asyncio

    return asyncio.run(function(*args, **kwargs))


class SourceFinder:
    """Imports modules of the project from their source text: {name: (text, file name, is a package)}."""

    def __init__(self, sources: Mapping[str, tuple[str, str, bool]]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self.sources:
            return None
        _, filename, package = self.sources[name]
        spec = spec_from_loader(name, self, origin=filename, is_package=package)  # type: ignore[arg-type]
        if spec is not None:
            spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, made: ModuleType) -> None:
        text, filename, _ = self.sources[made.__name__]
        cloudpickle.register_pickle_by_value(made)
        exec(compile(text, filename, "exec"), vars(made))  # noqa: S102 - this is what importing is

    def get_source(self, name: str) -> str:
        """Its text, so that tracebacks and `inspect` show its lines."""
        return self.sources[name][0]
