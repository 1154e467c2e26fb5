"""DaskCalls: the calls of one function over the warm line of a run's first machine, made by the Dask workers of all."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dayfly.errors import SpecError
from dayfly.runtime import payload
from dayfly.runtime.dask_cluster import DaskCluster
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_calls import WarmCalls
from dayfly.runtime.warm_data import WarmData
from dayfly.runtime.warm_function import WarmFunction

if TYPE_CHECKING:
    from dayfly.runtime.data import Data
    from dayfly.runtime.display import Display
    from dayfly.runtime.moment import Moment
    from dayfly.runtime.payload import Payload
    from dayfly.runtime.session import Session

R = TypeVar("R")


class Relay(WarmFunction):
    """What the first machine calls in the place of a function, to hand its calls on."""

    def __init__(self, function: WarmFunction, cluster: DaskCluster) -> None:
        super().__init__(function.bare)
        self._cluster = cluster

    def packed(self, data: WarmData) -> Payload:
        return self._cluster.relay


class DaskCalls(WarmCalls[R]):
    """As WarmCalls. Arguments and results pass the first machine as bytes.

    Args:
        function: what is called.
        cluster: whose workers make the calls.
        session: with the machines.
        directory: the run's own on this computer.
        greeted: set as soon as calls can be sent.
        display: as of WarmCalls.
    """

    nested = True

    def __init__(
        self,
        function: WarmFunction,
        cluster: DaskCluster,
        session: Session,
        directory: Path,
        greeted: threading.Event | Moment | None = None,
        *,
        display: Display | None = None,
    ) -> None:
        super().__init__(Relay(function, cluster), session, directory, greeted, display)
        self._called, self._cluster = function, cluster

    def begin(self, lost: Callable[[Exception], None] = lambda _: None) -> None:
        """As of WarmCalls; `lost` is also told where the machines cannot reach each other any more."""
        super().begin(lost)

        def broken(error: Exception) -> None:
            self._line.fail(error)
            lost(error)

        if self._cluster.mesh is not None:
            self._cluster.mesh.on_failure(broken)

    def start_cluster(self) -> None:
        """Starts scheduler and workers, and waits until every machine has its own.

        Raises:
            Exception: what has kept them from coming up.
        """
        self._submit([((), {"begin": True})])[0].result()

    def submit_all(
        self,
        calls: Iterable[tuple[Sequence[Any], Mapping[str, Any]]],
        *,
        group: int = 0,
        timeout_s: float | None = None,
        most_bytes: float = math.inf,
    ) -> list[WarmCall[R]]:
        """As of WarmCalls; which machine makes which call is Dask's to say, so that groups mean nothing."""
        if self.over is not None:
            return [self._never(self.over) for _ in calls]
        function = self._called
        digest = function.digest(self._session, _NoData(self._session))

        def relayed() -> Iterator[tuple[Sequence[Any], Mapping[str, Any]]]:
            for args, kwargs in calls:
                function.check(args, kwargs)
                yield (digest, _packed(function.bare, args, kwargs)), {}

        return self._submit(relayed(), timeout_s=timeout_s, most_bytes=most_bytes)


class _NoData(WarmData):
    """Data is on one machine only."""

    def bring(self, items: Mapping[str, Data]) -> tuple[dict[str, Any], int]:
        _refuse(items)
        return {}, 0


def _packed(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    content, data = payload.pack_arguments(function, args, kwargs)
    _refuse(data)
    return bytes(content)


def _refuse(items: Mapping[str, Data]) -> None:
    if items:
        named = ", ".join(repr(each.source) for each in items.values())
        raise SpecError(
            f"Data of a session on several machines is not brought to all of them: {named}; read it in the function"
        )
