"""DaskCalls: the calls of one function over the warm line of a run's first machine, made by the Dask workers of all."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, TypeVar

from dayfly.runtime import payload
from dayfly.runtime.dask_cluster import DaskCluster
from dayfly.runtime.fleet import side_by_side
from dayfly.runtime.parts import Parts
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
        self._every = EveryData(session, display)

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
        function, every, packed = self._called, self._every, list[_Packed]()
        # What the function holds may take as long to bring as what it is called with.
        with self._line.coming():
            digest = function.digest(self._session, every)

        def relayed() -> Iterator[tuple[Sequence[Any], Mapping[str, Any]]]:
            for args, kwargs in calls:
                function.check(args, kwargs)
                packed.append(_Packed.of(function.bare, args, kwargs, every))
                yield (digest, packed[-1].arguments, packed[-1].data), {}

        sent = self._submit(relayed(), timeout_s=timeout_s, most_bytes=most_bytes)
        for call, each in zip(sent, packed, strict=True):
            call.prepared(each.pickle_s, each.data_s, each.data_bytes)
        return sent


class EveryData(WarmData):
    """As WarmData, on each machine of a run: which of them makes a call is not known before it is made."""

    def __init__(self, session: Session, display: Display | None) -> None:
        # What stays here of a folder is said once.
        self._each = [
            WarmData(session, display),
            *(WarmData(other) for other in session.others),
        ]

    def bring(self, items: Mapping[str, Data]) -> tuple[dict[str, Any], int]:
        """As of WarmData; what is said of them is said for each machine, in their order."""
        if not items:
            return {}, 0
        found = side_by_side([partial(one.bring, items) for one in self._each])
        return {"data": [told["data"] for told, _ in found]}, sum(sent for _, sent in found)


@dataclass(frozen=True)
class _Packed:
    """What a call is made with, on whichever machine; and what that took."""

    # By reference: what is large is not in memory twice for this.
    arguments: list[PickleBuffer]
    data: list[dict[str, Any]]
    pickle_s: float
    data_s: float
    data_bytes: int

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        every: EveryData,
    ) -> _Packed:
        began = time.perf_counter()
        content, data = payload.pack_arguments(function, args, kwargs)
        packed = time.perf_counter()
        told, data_bytes = every.bring(data)
        data_s = time.perf_counter() - packed
        buffers = Parts.of(content).buffers()
        return cls(buffers, told.get("data", []), packed - began, data_s, data_bytes)
