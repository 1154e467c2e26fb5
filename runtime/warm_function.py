"""WarmFunction: the function of a warm run, on the machine under the digest of what it is now."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dayfly.runtime import payload
from dayfly.runtime.call import check_arguments
from dayfly.runtime.pickler import bare_function
from dayfly.runtime.unchanged import Watched

if TYPE_CHECKING:
    from dayfly.runtime.payload import Payload
    from dayfly.runtime.session import Session
    from dayfly.runtime.warm_data import WarmData


class WarmFunction:
    """One function, pickled again whenever it may have changed, and sent whenever the machine does not have it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.bare: Any = bare_function(function)
        self._there: set[str] = set()
        self._digest = ""
        self._watched: Watched | None = None
        self._packing = threading.Lock()
        try:
            self._signature: inspect.Signature | None = inspect.signature(self.bare)
        except (TypeError, ValueError):
            self._signature = None  # some built-in functions tell nobody what they take
        self._positional = _positional(self._signature)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuses what it could not be called with.

        Raises:
            PayloadError: with its signature.
        """
        if self._signature is None or (not kwargs and len(args) in self._positional):
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            check_arguments(self.bare, args, kwargs)

    def packed(self, data: WarmData) -> Payload:
        """What is sent of it.

        Args:
            data: brings what the Data is that it holds.

        Raises:
            PayloadError: it cannot travel; names the part.
            DataFailed: its Data cannot.
        """
        return payload.pack_function(self.bare, lambda items: data.bring(items)[0])

    def digest(self, session: Session, data: WarmData) -> str:
        """The digest under which the machine has it, as it is now, with its globals.

        Args:
            session: with the machine.
            data: brings what the Data is that it holds.

        Raises:
            PayloadError: it cannot travel; names the part.
            DataFailed: its Data cannot.
        """
        with self._packing:
            if self._watched is not None and self._watched.is_unchanged():
                return self._digest
            watched = Watched.of(self.bare, payload.project_of(self.bare))
            packed = self.packed(data)
            if packed.code_digest not in self._there:
                session.put(packed.task)
                self._there.add(packed.code_digest)
            self._digest, self._watched = packed.code_digest, watched
            return self._digest


def _positional(signature: inspect.Signature | None) -> range:
    """How many arguments by position, and none by name, it can be called with; a part of what it takes where it takes any number."""
    parameters = [] if signature is None else list(signature.parameters.values())
    needed = [each for each in parameters if each.default is each.empty]
    if any(each.kind is each.KEYWORD_ONLY for each in needed):
        return range(0)
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    least = sum(each.kind in kinds for each in needed)
    return range(least, sum(each.kind in kinds for each in parameters) + 1)
