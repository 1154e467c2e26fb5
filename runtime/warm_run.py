"""WarmRun: one run whose machine is kept for many calls of one function, and is destroyed and proved gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import sys
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Self, TypeVar, Unpack, cast

from dayfly.errors import DayflyError, InstanceLost, LeakRisk, RunFailed, SpecError
from dayfly.infra.spec import Spec
from dayfly.infra.units import human_seconds, seconds, shown
from dayfly.runtime import interrupt, payload
from dayfly.runtime.aside import aside
from dayfly.runtime.call import Call
from dayfly.runtime.cargo import Cargo
from dayfly.runtime.job import Job
from dayfly.runtime.moment import Moment, ended
from dayfly.runtime.verb import verb
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_calls import WarmCalls
from dayfly.runtime.warm_function import WarmFunction
from dayfly.runtime.warm_map import Ahead, MapOptions, WarmMap

if TYPE_CHECKING:
    from dayfly.infra.offers import Offer
    from dayfly.runtime.dask_cluster import DaskCluster
    from dayfly.runtime.data import Data
    from dayfly.runtime.session import Session
    from dayfly.runtime.ssh.tunnel import Tunnel
    from dayfly.runtime.usage import Usage
    from dayfly.stacks.policies import Check
    from dayfly.stacks.receipt import Receipt

P = ParamSpec("P")
R = TypeVar("R")
Isolation = Literal["fork", "process"]
Slots = int | Literal["cores", "gpu"]
# Of the run's grace, what the process of a call has; the rest is for what has the calls made, which writes down what is left.
_GRACE_SHARE = 0.5
LINGER_S = 60.0

_open: weakref.WeakSet[WarmRun[Any, Any]] = weakref.WeakSet()


class WarmRun(Generic[P, R]):
    """A run that stays: one stack, one id, one journal, one receipt, and as many calls as there are.

    It is a Run like any other, only that what runs there is a process that has calls made. (The connection to its
    machine is a Session; this holds one, and outlives its drops.)

    Lifecycle: constructing does nothing; entering provisions and returns when calls can be made; leaving waits for the
    calls that are under way (or stops them, where an exception leaves), then destroys and proves absence as any call
    does. `close` twice is fine. `async with` does the same without blocking the event loop; where its task is cancelled
    the block is left at once, and the calls are stopped and the machine destroyed behind it.

    Args:
        function: what is called; each call takes it as it then is, with its globals.
        spec: what is asked for. Its `retries` are those of calls that make a run of their own; a map has its own.
        slots: calls at once on a machine: a number, "cores" (the default), or "gpu" for one on each GPU.
        isolation: "fork" makes each call in a process of its own; "process" makes them one after the other in one that
            stays, which is faster, keeps what the function keeps, and is lost with the call that crashes it. On several
            machines it is always the latter, for each slot.
        linger: for how long the machine waits for a client that is gone, when it has nothing to do.
        idle: for how long it waits for a client that is there and has no call for it; None for as long as the run may live.
        policies: what its plan has to pass, beside those of project and user.

    Attributes:
        first_call: gives the arguments of the first call, where they are known before it is entered, as those of a map are: what
            cannot work with them is refused before anything exists, and what fetches their Data is installed with all else.
        first_may_fail: what that call is refused for is told by the call itself.
    """

    def __init__(
        self,
        function: Callable[P, R],
        spec: Spec,
        *,
        slots: Slots | None = None,
        isolation: Isolation = "fork",
        linger: float | str = LINGER_S,
        idle: float | str | None = None,
        policies: Sequence[Check] = (),
    ) -> None:
        if spec.distributed is not None:
            raise SpecError(
                f"distributed={spec.distributed!r} runs one call on all machines: a session, or a map, has each make calls of its"
                " own; leave distributed= out"
            )
        self._spec, self._policies = dataclasses.replace(spec, retries=0), policies
        self._cluster: DaskCluster | None = None
        self._dashboard = contextlib.ExitStack()
        self._slots, self._settings = slots, _settings(slots, isolation, linger, idle)
        self._settings["grace_s"] = spec.grace_s * _GRACE_SHARE
        self._function = WarmFunction(function)
        self._ready = Moment()
        self._interrupts = contextlib.ExitStack()
        self._job: Job[Any] | None = None
        self._calls: WarmCalls[R] | None = None
        self._closing = threading.Lock()
        self._closed = False
        self.first_call: Callable[[], Sequence[Any] | None] = lambda: None
        self.first_may_fail = False

    # -- lifetime

    def __enter__(self) -> Self:
        """Provisions, connects, makes the environment, and returns when calls can be made.

        Raises:
            SpecError, PayloadError, ConfigurationError, EngineMissing, BudgetExceeded: nothing was spent.
            DayflyError: it did not come up; what there was of it is gone.
            LeakRisk: it did not come up, and it is not proved that nothing is left.
        """
        call = self._prepared()
        self._interrupts.enter_context(interrupt.signals_as_interrupts())
        try:
            self._start(call)
            self._ready.wait()
            self._check_begun()
            self._start_cluster()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aenter__(self) -> Self:
        """As `__enter__`; a task that is cancelled meanwhile has what there is destroyed behind it."""
        # Until it is prepared nothing exists, and nobody who waits no longer gets a machine.
        call = await aside(self._prepared)
        try:
            self._start(call)
            await self._ready.come()
            self._check_begun()
            await aside(self._start_cluster)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    def _prepared(self) -> Call:
        call = Call.prepare_warm(
            self._function.bare,
            self._spec,
            self._settings,
            self._begun,
            self._policies,
            data=self._first_data(),
        )
        if self._spec.nodes > 1:
            call = self._on_all(call)
        if self._settings["by"] == "gpu" and not any(offer.gpus for offer in call.offers):
            raise SpecError(
                f"slots='gpu': {call.offers[0].instance_type} has no GPU; ask for one with gpu=, or leave slots= out"
            )
        if self._slots is None and (shared := _shared_gpus(call.offers)):
            call.display.warning(shared)
        return call

    def _first_data(self) -> Mapping[str, Data]:
        """The Data of the first call, all of which is there."""
        first = self.first_call()
        if first is None:
            return {}
        try:
            self._function.check(first, {})
            _, data = payload.pack_arguments(self._function.bare, first, {})
            Cargo(data)
        except DayflyError:
            if self.first_may_fail:
                return {}
            raise
        return data

    def _start(self, call: Call) -> None:
        self._job = Job.start(call)
        _open.add(self)
        self._job.add_done_callback(self._job_done)

    def _on_all(self, call: Call) -> Call:
        """The same call, with the machines as one Dask cluster."""
        from dayfly.runtime.dask_cluster import DaskCluster

        by, slots, grace_s = (self._settings[name] for name in ("by", "slots", "grace_s"))
        self._cluster = DaskCluster(self._function.bare, self._spec, slots, by, grace_s)
        return self._cluster.joined(call, self._settings)

    def _start_cluster(self) -> None:
        if self._cluster is None:
            return
        from dayfly.runtime.dask_calls import DaskCalls

        assert isinstance(self._calls, DaskCalls)
        self._calls.start_cluster()
        job = self._running
        tunnel = self._dashboard.enter_context(job.forward(self._cluster.dashboard))
        if job.done():
            self._dashboard.close()  # It was closed before this one was in it.
            return
        job.dashboard = f"http://{tunnel.address}/status"
        job.display.note(f"dashboard: {job.dashboard}")

    def _check_begun(self) -> None:
        if self._calls is None or self._running.done():
            self._running.result()
            raise RunFailed(f"run {self.id} has ended before a call could be made")
        if not self._calls.slots:
            raise RunFailed(f"run {self.id}: slots='gpu': nvidia-smi lists no GPU on the machine")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.close()
            else:
                self._abandon(error)
        finally:
            self._interrupts.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close.aio()
        elif isinstance(error, asyncio.CancelledError):
            self._leave_behind(error)
        else:
            await aside(functools.partial(self._abandon, error))

    def _to_close(self) -> Job[Any] | None:
        """The job, for the first that asks."""
        with self._closing:
            job = None if self._closed else self._job
            self._closed = self._closed or job is not None
        return job

    async def _close_aio(self) -> None:
        job = self._to_close()
        if job is None:
            return
        try:
            if self._calls is not None:
                await self._calls.finish_aio()
            await ended(job)
        except asyncio.CancelledError as error:
            self._leave_behind(error)
            raise
        except BaseException as error:
            await aside(functools.partial(self._abandon, error))
            raise
        job.result()

    @verb(_close_aio)
    def close(self) -> None:
        """Waits for what is under way, then ends the run; its machine is destroyed behind that, as after any call.

        Raises:
            KeyboardInterrupt: there was one; the machine is gone by then.
            DayflyError: the run did not end well.
        """
        job = self._to_close()
        if job is None:
            return
        try:
            if self._calls is not None:
                self._calls.finish()
        except BaseException as error:
            self._abandon(error)
            raise
        interrupt.wait_for(job)

    def _abandon(self, error: BaseException) -> None:
        """Ends it for an error that is on its way already, and that none of ours may hide."""
        job, self._closed = self._job, True
        if job is None:
            return
        if isinstance(error, Exception):
            job.block_failed()
        try:
            if isinstance(error, KeyboardInterrupt) and not job.done():
                interrupt.stop_and_prove([job])
                return
            if self._calls is not None and self._ready.is_set():
                self._calls.abandon()
            elif not job.done():
                threading.Thread(target=job.stop, daemon=True).start()
            interrupt.wait_for(job)
        except Exception as more:  # noqa: BLE001 - the first error is the one to see
            if more is not error:
                error.add_note(str(more))

    def _leave_behind(self, error: BaseException) -> None:
        """Ends it for a task that was cancelled, which does not wait for that; the end of this process waits for the proof."""
        job, self._closed = self._job, True
        if job is None or job.done():
            return
        job.display.warning(
            "the task of this session was cancelled: stopping its calls, destroying the machine, proving it gone"
        )
        threading.Thread(
            target=self._abandon, args=(error,), name="dayfly-stop", daemon=True
        ).start()

    # -- calls

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls it there and returns its value, or raises its exception; an interrupt stops the call."""
        call = self._send(args, kwargs)
        try:
            return call.result()
        except BaseException:
            # Where that is not how it has ended: nobody else has its handle.
            call.abandon()
            raise

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As the call itself, without blocking the event loop; a task that is cancelled meanwhile stops the call."""
        return await (await self.submit.aio(*args, **kwargs))

    async def _submit_aio(self, /, *args: P.args, **kwargs: P.kwargs) -> WarmCall[R]:
        # Its arguments may be large, or Data.
        send = functools.partial(self.submit, *args, **kwargs)
        return await aside(send, unwanted=lambda late: late.abandon())

    @verb(_submit_aio)
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> WarmCall[R]:
        """Sends a call and returns at once.

        Raises:
            PayloadError: it cannot travel; names the part.
            DayflyError: the run has ended; what ended it.
        """
        return self._send(args, kwargs)

    def _send(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> WarmCall[R]:
        return self._calls_there().submit_all([(args, kwargs)])[0]

    def _map_aio(
        self, items: Iterable[Any], *more: Iterable[Any], **how: Unpack[MapOptions]
    ) -> AsyncGenerator[R, None]:
        return self._mapped_aio(_side_by_side(items, more), _length(items, more), True, how)

    @verb(_map_aio)
    def map(
        self, items: Iterable[Any], *more: Iterable[Any], **how: Unpack[MapOptions]
    ) -> Iterator[R]:
        """Calls it for each item, or for the items of several iterables side by side, and gives the values in their order.

        The first of them are sent at once (by `async for value in s.map.aio(items)`: when the first value is asked for), the
        others as values come. Items of one map may share a process, one after the other, as long as none of them leaves a
        thread behind. What is left of it is stopped when it is left early, or where the task that awaits it is cancelled.

        Args:
            items: the first argument of each call.
            more: the second argument, and so on; the shortest ends it.
            how: see MapOptions.
        """
        return self._mapped(_side_by_side(items, more), _length(items, more), True, how).results()

    def _map_unordered_aio(
        self, items: Iterable[Any], *more: Iterable[Any], **how: Unpack[MapOptions]
    ) -> AsyncGenerator[R, None]:
        return self._mapped_aio(_side_by_side(items, more), _length(items, more), False, how)

    @verb(_map_unordered_aio)
    def map_unordered(
        self, items: Iterable[Any], *more: Iterable[Any], **how: Unpack[MapOptions]
    ) -> Iterator[R]:
        """As `map`, each value as soon as it is there."""
        return self._mapped(_side_by_side(items, more), _length(items, more), False, how).results()

    def _starmap_aio(
        self, items: Iterable[Sequence[Any]], **how: Unpack[MapOptions]
    ) -> AsyncGenerator[R, None]:
        return self._mapped_aio(items, _length(items, ()), True, how)

    @verb(_starmap_aio)
    def starmap(self, items: Iterable[Sequence[Any]], **how: Unpack[MapOptions]) -> Iterator[R]:
        """As `map`, each item holding all the arguments of its call."""
        return self._mapped(items, _length(items, ()), True, how).results()

    def _mapped(
        self, calls: Iterable[Sequence[Any]], total: int | None, ordered: bool, how: MapOptions
    ) -> WarmMap[R]:
        display = self._running.display
        return WarmMap(
            self._calls_there(), calls, total=total, ordered=ordered, display=display, **how
        )

    async def _mapped_aio(
        self, calls: Iterable[Sequence[Any]], total: int | None, ordered: bool, how: MapOptions
    ) -> AsyncGenerator[R, None]:
        begin = functools.partial(self._mapped, calls, total, ordered, how)
        made = await aside(begin, unwanted=lambda late: late.leave())
        async with contextlib.aclosing(made.results_aio()) as values:
            async for value in values:
                yield value

    # -- the run

    @property
    def id(self) -> str:
        """The run's id; `dayfly show` tells its story."""
        return self._running.id

    @property
    def dashboard(self) -> str:
        """Address of the Dask dashboard on this computer, where several machines make the calls; "" without."""
        return self._running.dashboard

    @property
    def slots(self) -> int:
        """Calls that the machine makes at once, or all of them."""
        return self._calls_there().slots

    @property
    def directory(self) -> Path:
        """Where its journal, its log and the ledger of its calls are kept on this computer."""
        return self._running.directory

    def status(self) -> str:
        """As of a job: "run" while calls can be made."""
        return self._running.status()

    def cost(self) -> float:
        """Dollars so far; after the end those of the receipt."""
        return self._running.cost()

    def usage(self) -> Usage:
        """What its machine uses now and has used, and how long each phase took: `dayfly top`."""
        return self._running.usage()

    @property
    def outputs(self) -> Path:
        """Where what the calls have left in DAYFLY_OUTPUT_DIR is on this computer; only after the end of the `with` block.

        Raises:
            RunFailed: the block has not been left: it comes with the end of the run.
        """
        return self._left().outputs

    def _logs_aio(self, follow: bool = False) -> AsyncIterator[str]:
        return self._running.logs.aio(follow)

    @verb(_logs_aio)
    def logs(self, follow: bool = False) -> Iterator[str]:
        """What the calls have printed, line by line; with `follow` until the run ends, which leaving the block does.

        Lines of calls that run side by side begin with the call's number.
        """
        return self._running.logs(follow)

    async def _forward_aio(self, port: int, local_port: int = 0, *, node: int = 0) -> Tunnel:
        return await self._running.forward.aio(port, local_port, node=node)

    @verb(_forward_aio)
    def forward(self, port: int, local_port: int = 0, *, node: int = 0) -> Tunnel:
        """A port of this computer's loopback that leads to one of the machine's, while it is entered.

        Args:
            port: of the machine, where a call, or what it started, listens on 127.0.0.1.
            local_port: of this computer; 0 for any that is free.
            node: which machine, where there are several.

        Raises:
            RunFailed: the run has ended.
            SpecError: no such port can be, or there is no such machine.
        """
        return self._running.forward(port, local_port, node=node)

    async def _receipt_aio(self, timeout: float | None = None) -> Receipt:
        return await self._left().receipt.aio(timeout)

    @verb(_receipt_aio)
    def receipt(self, timeout: float | None = None) -> Receipt:
        """Waits until the machine is proved gone; only after the end of the `with` block.

        Raises:
            LeakRisk: it could not be proved.
            TimeoutError: not yet.
            RunFailed: the block has not been left.
        """
        return self._left().receipt(timeout)

    def _left(self) -> Job[Any]:
        if not self._closed:
            raise RunFailed(f"run {self.id} is open: leave its `with` block, or close it, first")
        return self._running

    @property
    def _running(self) -> Job[Any]:
        if self._job is None:
            raise RunFailed("nothing has begun yet: `with f.session() as s:`, and `s` within")
        return self._job

    def _calls_there(self) -> WarmCalls[R]:
        job = self._running
        if self._closed:
            raise RunFailed(f"run {job.id} is closed: it takes no more calls")
        if job.done():
            job.result()
            raise self._ended()
        assert self._calls is not None
        return self._calls

    # -- what its job tells

    def _begun(self, session: Session) -> None:
        """The machine's side is started: calls are carried to it beside the log."""
        running = self._running
        display = running.display
        if self._cluster is None:
            self._calls = WarmCalls(
                self._function, session, running.directory, self._ready, display
            )
        else:
            from dayfly.runtime.dask_calls import DaskCalls

            self._calls = DaskCalls(
                self._function,
                self._cluster,
                session,
                running.directory,
                self._ready,
                display=display,
            )
        self._calls.begin(self._lost)

    def _lost(self, error: Exception) -> None:
        """The line broke for good; where that is not the job's own end, it ends the job.

        A machine that is gone is found out by whoever follows the job, too, who says what has become of it: nobody has
        asked for a stop.
        """
        gone = isinstance(error, InstanceLost) and bool(error.state)
        if not gone and not self._running.done() and not self._closed:
            self._ready.set()
            self._running.stop()

    def _job_done(self, job: Future[Any]) -> None:
        """The run has ended, well or not: what the machine has left is handed over, the rest learns why."""
        if self._calls is not None:
            self._calls.end(job.exception() or self._ended())
        self._dashboard.close()
        self._running.dashboard = ""
        self._ready.set()

    def _ended(self) -> RunFailed:
        """Why a run that has ended well takes no more calls."""
        run = self._running.id
        if self._closed:
            return RunFailed(f"run {run} was closed before this call was made")
        idle_s = self._settings["idle_s"]
        idle = f" for {human_seconds(idle_s)}, the time of idle=, or" if idle_s else " and"
        return RunFailed(
            f"run {run} has ended on its machine, which had nothing to do{idle} heard nothing of this client for the time of"
            " linger="
        )


def _side_by_side(items: Iterable[Any], more: Sequence[Iterable[Any]]) -> Iterable[Sequence[Any]]:
    return zip(items, *more, strict=False)


def _length(items: Iterable[Any], more: Sequence[Iterable[Any]]) -> int | None:
    """How many there are, where that can be told."""
    every = [each.items if isinstance(each, Ahead) else each for each in (items, *more)]
    if not all(isinstance(each, Sized) for each in every):
        return None
    return min(len(each) for each in every if isinstance(each, Sized))


def _settings(slots: object, isolation: object, linger: object, idle: object) -> dict[str, Any]:
    """How calls are to be made, for the machine.

    Raises:
        SpecError: one of them cannot be.
    """
    if isolation not in ("fork", "process"):
        raise SpecError(f"isolation={shown(isolation)} must be 'fork' or 'process'")
    number = slots if isinstance(slots, int) and not isinstance(slots, bool) else 0
    if slots not in (None, "cores", "gpu") and number < 1:
        raise SpecError(
            f"slots={shown(slots)} must be a whole number of at least 1, 'cores' or 'gpu'"
        )
    if slots == "cores" and isolation == "process":
        raise SpecError("slots='cores' needs isolation='fork'; give a number of processes instead")
    return {
        "slots": number,
        "by": "gpu" if slots == "gpu" else "cores",
        "isolation": isolation,
        "linger_s": seconds(cast("Any", linger), "linger"),
        "idle_s": 0.0 if idle is None else seconds(cast("Any", idle), "idle"),
    }


def _shared_gpus(offers: Sequence[Offer]) -> str:
    """What should be said where nobody has chosen the slots of a machine with GPUs; "" where it has none."""
    with_gpus = next((offer for offer in offers if offer.gpus), None)
    if with_gpus is None:
        return ""
    gpus, cores = with_gpus.gpus, with_gpus.cores
    return (
        f"slots= is left out: as many calls at once as there are cores ({cores}), each of which sees all {gpus} GPUs;"
        ' slots="gpu" makes one for each GPU, which sees that one alone, slots=1 one after the other with all of them'
    )


def _close_at_exit() -> None:
    """A program that has forgotten to leave its block must not wait at its end for its own next call, and one that has failed
    not for those that are under way; what an interrupt ends is ended with all jobs."""
    error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
    if isinstance(error, KeyboardInterrupt):
        return
    for run in [each for each in _open if not each._closed]:
        with contextlib.suppress(Exception, LeakRisk):
            if error is None:
                run.close()
            else:
                run._abandon(error)


# Before the jobs are waited for: what is registered last runs first.
threading._register_atexit(_close_at_exit)  # type: ignore[attr-defined]
