"""Verb: something to do that blocks, and beside it, as `.aio`, the same for whoever must not block an event loop."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from dayfly.runtime.aside import aside

S = TypeVar("S")
T = TypeVar("T")
P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)


class Act(Generic[P, T_co, A_co]):
    """A function that blocks; `aio` is given what it is given, and is awaited (or iterated by `async for`).

    Args:
        blocking: the function.
        aio: its awaitable form.
    """

    def __init__(self, blocking: Callable[P, T_co], aio: Callable[P, A_co]) -> None:
        functools.update_wrapper(self, blocking)
        self._blocking = blocking
        self._aio = aio

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        return self._blocking(*args, **kwargs)

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> A_co:
        """The same, without blocking the event loop."""
        return self._aio(*args, **kwargs)

    def __reduce__(self) -> str:
        # By its name, as a function.
        return self._blocking.__qualname__

    def __repr__(self) -> str:
        return f"<{self._blocking!r}, and its .aio>"


class Verb(Generic[S, P, T_co, A_co]):
    """A method that is an Act of its instance."""

    def __init__(
        self,
        blocking: Callable[Concatenate[S, P], T_co],
        aio: Callable[Concatenate[S, P], A_co],
    ) -> None:
        functools.update_wrapper(self, blocking)
        self._blocking = blocking
        self._aio = aio

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: S, owner: type) -> Act[P, T_co, A_co]: ...

    def __get__(self, instance: S | None, owner: type) -> Self | Act[P, T_co, A_co]:
        if instance is None:
            return self
        return Act(_bound(self._blocking, instance), _bound(self._aio, instance))

    def __call__(self, instance: S, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """As a plain function is called through its class."""
        return self._blocking(instance, *args, **kwargs)


def _bound(function: Any, instance: object) -> Any:
    return types.MethodType(function, instance)


def act(
    aio: Callable[P, A_co],
) -> Callable[[Callable[P, T_co]], Act[P, T_co, A_co]]:
    """Decorates a function; `aio` is its awaitable form."""
    return lambda blocking: Act(blocking, aio)


def act_aside(blocking: Callable[P, T]) -> Act[P, T, Coroutine[Any, Any, T]]:
    """Decorates a function whose awaitable form does the same in a thread of its own."""

    async def aio(*args: P.args, **kwargs: P.kwargs) -> T:
        return await aside(functools.partial(blocking, *args, **kwargs))

    return Act(blocking, aio)


def verb(
    aio: Callable[Concatenate[S, P], A_co],
) -> Callable[[Callable[Concatenate[S, P], T_co]], Verb[S, P, T_co, A_co]]:
    """Decorates a method; `aio` is its awaitable form."""
    return lambda blocking: Verb(blocking, aio)
