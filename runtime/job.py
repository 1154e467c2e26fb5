"""Job: the user's handle on one call: a Future that also has an id, a status, logs and a receipt."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from dayfly.errors import (
    BudgetExceeded,
    ConfigurationError,
    DataFailed,
    DayflyError,
    DeadlineReached,
    Detached,
    EnvironmentFailed,
    Forged,
    GpuIdle,
    HostKeyMismatch,
    JobStopped,
    KeptMachineLost,
    LeakRisk,
    MachineUnfit,
    ProvisionFailed,
    ResultFailed,
    RunFailed,
    SpecError,
    TakenOver,
    UnknownRun,
)
from dayfly.infra import providers
from dayfly.runtime import at_exit, outputs, ranks, wakeful
from dayfly.runtime.aside import aside
from dayfly.runtime.attend import Attendance
from dayfly.runtime.call import Call
from dayfly.runtime.display import Display
from dayfly.runtime.log_tail import LogTail
from dayfly.runtime.moment import Bell, Moment
from dayfly.runtime.unfit import UnfitMachines
from dayfly.runtime.verb import verb
from dayfly.stacks import journal, kept
from dayfly.stacks.bill import Bill
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.workspace import Workspace

if TYPE_CHECKING:
    from dayfly.runtime.ssh.tunnel import Tunnel
    from dayfly.runtime.usage import Usage

R = TypeVar("R")
_FINAL = (
    BudgetExceeded,
    ConfigurationError,
    DataFailed,
    DeadlineReached,
    Detached,
    EnvironmentFailed,
    Forged,
    GpuIdle,
    HostKeyMismatch,
    JobStopped,
    LeakRisk,
    ResultFailed,
    SpecError,
)


class Job(concurrent.futures.Future[R], Generic[R]):
    """One call under way.

    `result`, `exception`, `add_done_callback`, `cancel` are those of a Future; `cancel` is refused once it runs, and
    `stop` ends it at any time. The value is there before the machine is gone: `receipt` waits for the proof, and so
    does the end of this process.

    It can be awaited, and so can every method here that blocks, as `.aio`: `await job.receipt.aio()`, `async for line
    in job.logs.aio(follow=True)`. A task that is cancelled while it awaits a job stops it, as Ctrl-C does.
    """

    def __init__(self, workspace: Workspace, display: Display) -> None:
        super().__init__()
        self._workspace = workspace
        self._display = display
        self._attendance: Attendance | None = None
        self._stack: RunStack | None = None
        self._known, self._closed = Moment(), Moment()
        self._news = news = Bell()
        self.add_done_callback(lambda _: news.ring())
        self._teardown_error: LeakRisk | None = None
        self._left = False
        self._stopped = False
        self._stopping = threading.RLock()  # a callback of `cancel` may stop it, too
        self._heard, self._unheard = False, object()
        self._unfit: UnfitMachines | None = None
        self._earlier: BaseException | None = None  # of the attempt before

    @classmethod
    def start(cls, call: Call) -> Self:
        """Starts a prepared call in a thread of its own."""
        job = cls(call.context.workspace, call.display)
        job._begin(lambda: job._run(call))
        return job

    @classmethod
    def resume(
        cls, workspace: Workspace, display: Display, finish: Callable[[Attendance], Any]
    ) -> Self:
        """Takes a run in hand again that another client has left."""
        job = cls(workspace, display)
        attendance = Attendance(display, joined=job._join, news=job._news.ring)
        job._attendance = attendance
        job._begin(lambda: job._settle(lambda: finish(attendance), last=True))
        return job

    @classmethod
    def settled(
        cls, workspace: Workspace, display: Display, run_id: str, value: Callable[[], R]
    ) -> Self:
        """A job whose result is on this computer already."""
        job = cls(workspace, display)
        job._id = run_id
        job._known.set()
        job._deliver(value)
        job._closed.set()
        return job

    _id = ""
    dashboard = ""
    """Address on this computer of the Dask dashboard, while a map runs on several machines."""

    @property
    def id(self) -> str:
        """The run's id, with which `dayfly.attach` finds it from any process; that of the latest attempt."""
        self._known.wait()
        return self._id

    @property
    def directory(self) -> Path:
        """Where its journal, logs and result are kept on this computer.

        Raises:
            UnknownRun: it ended before it had a run.
        """
        if not self.id:
            raise UnknownRun("this job has no run: it was cancelled, or failed, before one began")
        return self._workspace.directory(self.id)

    @property
    def outputs(self) -> Path:
        """Where what the function has left in DAYFLY_OUTPUT_DIR is on this computer; waits for its end.

        Also where it failed, was stopped or ended at its deadline; an empty folder where it left nothing.
        """
        wakeful.wait(self._ended)
        folder = outputs.folder_of(journal.read(self.directory))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def status(self) -> str:
        """queued, provision, connect, environment, start, run, result, outputs, keep, teardown; then done, failed, cancelled or detached."""
        if not self._closed.is_set():
            return "queued" if self._attendance is None else self._attendance.phase
        if self.cancelled():
            return "cancelled"
        if self.detached:
            return "detached"
        return "failed" if self.done() and self._failure() is not None else "done"

    async def _logs_aio(self, follow: bool = False) -> AsyncIterator[str]:
        await self._known.come()
        tail = LogTail(lambda: self.directory if self.id else None)
        while True:
            news, last = self._news.next, not follow or self.done()
            for line in tail.lines():
                yield line
            if last:
                break
            await news.come()
        for line in tail.rest():
            yield line

    @verb(_logs_aio)
    def logs(self, follow: bool = False) -> Iterator[str]:
        """What the function has printed, stdout and stderr, line by line; with `follow` until it ends.

        A carriage return stays in its line, as a progress bar left it.
        """
        tail = LogTail(lambda: self.directory if self.id else None)
        while True:
            # Taken before it is looked: what comes meanwhile rings it.
            news, last = self._news.next, not follow or self.done()
            yield from tail.lines()
            if last:
                yield from tail.rest()
                return
            news.wait()

    async def _stop_aio(self) -> None:
        await aside(self.stop)

    @verb(_stop_aio)
    def stop(self) -> None:
        """Ends it wherever it is: SIGTERM, grace, SIGKILL to the whole tree, then the machine; the result is JobStopped.

        It may come from any thread and any number of times. Of a job that was detached it tells the keeper.
        """
        # Whoever asks while another thread's request is under way has asked for the same.
        with self._stopping:
            if self._stopped or self.cancel() or self._ended_here():
                return
            self._stopped = True
            if self._stack is not None and self._stack.directory.exists():
                # Were this process killed before it has destroyed the machine, the run must not count as held.
                with contextlib.suppress(OSError):
                    journal.append(self._stack.directory, "cancelled", by=journal.myself())
            if self.detached:
                self._display.note("it was detached: the keeper ends it now")
            elif self._attendance is not None:
                self._attendance.stop()

    def _ended_here(self) -> bool:
        """Whether nothing is left to stop: it has ended, and no keeper of this computer was told to go on with it."""
        return self.done() and (not self.detached or isinstance(self._failure(), TakenOver))

    async def _detach_aio(self) -> str:
        return await aside(self.detach)

    @verb(_detach_aio)
    def detach(self) -> str:
        """Waits until the function has started, and lets go: this process may end, and so may this computer's session.

        The keeper brings log and result to this computer when the function has ended, and destroys the machine then.
        The job's own outcome is `Detached`; further attempts (`retries=`) are given up. A job whose function has ended
        meanwhile is what it would have been.

        Returns:
            The run's id, for `dayfly.attach` from any process.

        Raises:
            KeeperMissing: nobody would finish it; it goes on as it was.
            DayflyError: there is nothing to let go of: it failed before.
        """
        left: Attendance | None = None
        while not self.done():
            news, attendance = self._news.next, self._attendance
            # Where that attempt fails meanwhile, another one may begin.
            if attendance is not None and attendance.following and attendance is not left:
                attendance.detach()
                left = attendance
            else:
                news.wait()
        error = self.exception()
        if left is None and isinstance(error, DayflyError) and not isinstance(error, Detached):
            raise error
        return self.id

    @property
    def detached(self) -> bool:
        """Whether this process has let go of it."""
        return self.done() and not self.cancelled() and isinstance(self._failure(), Detached)

    async def _receipt_aio(self, timeout: float | None = None) -> Receipt:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.come(), timeout)
        return self.receipt(0)

    @verb(_receipt_aio)
    def receipt(self, timeout: float | None = None) -> Receipt:
        """Waits until the machine is proved gone.

        Raises:
            LeakRisk: it could not be proved.
            TimeoutError: not yet.
            DayflyError: there is none: nothing was created, its machine is kept, or it was left to the keeper.
        """
        if not self._closed.wait(timeout):
            raise TimeoutError(f"run {self.id} is not closed yet: {self.status()}")
        if self._teardown_error is not None:
            raise self._teardown_error
        if not self._id or not self.directory.exists():
            raise DayflyError("there is no receipt, since nothing was created: it ended before")
        receipt = Receipt.of(self.directory)
        history = journal.read(self.directory)
        if receipt is None and kept.until(history) is not None:
            raise DayflyError(f"run {self.id} has no receipt yet: it is {kept.described(history)}")
        if receipt is None:
            raise DayflyError(
                f"run {self.id} was left to the keeper, or to `dayfly gc --run {self.id}`; `dayfly show {self.id}` tells"
            )
        return receipt

    def cost(self) -> float:
        """Dollars so far; after the end those of the receipt."""
        if not self.id:
            return 0.0
        receipt = Receipt.of(self.directory)
        if receipt is not None:
            return receipt.usd
        history = journal.read(self.directory)
        if history.provider not in providers.names():
            return 0.0
        return Bill.of(history, providers.load(history.provider), time.time()).usd

    def usage(self) -> Usage:
        """What its machine uses now and has used, and how long each phase took: `dayfly top`."""
        from dayfly.runtime.usage import Usage

        return Usage.of(journal.read(self.directory))

    async def _forward_aio(self, port: int, local_port: int = 0, *, node: int = 0) -> Tunnel:
        return await aside(lambda: self.forward(port, local_port, node=node))

    @verb(_forward_aio)
    def forward(self, port: int, local_port: int = 0, *, node: int = 0) -> Tunnel:
        """A port of this computer's loopback that leads to one of the machine's, while it is entered.

        `with job.forward(8888) as tunnel:` listens on `tunnel.address`. Waits until the machine is there.

        Args:
            port: of the machine, where the function, or what it started, listens on 127.0.0.1.
            local_port: of this computer; 0 for any that is free.
            node: which machine, where there are several.

        Raises:
            RunFailed: the function has ended.
            SpecError: no such port can be, or there is no such machine.
        """
        while True:
            news, attendance = self._news.next, self._attendance
            session = None if attendance is None else attendance.reached
            if self.done():
                raise RunFailed(f"run {self.id} has ended: it has no port that could be reached")
            if self._stack is not None:
                ranks.check_node(node, self._stack.spec.nodes, self._stack.id)
            if session is not None:
                reached = (session, *session.others)[node]
                return reached.forward(port, local_port, self._display.note)
            news.wait()

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        try:
            return await asyncio.wrap_future(self)
        except asyncio.CancelledError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Stops it, behind the caller's back, since whoever awaited it was cancelled: a machine that nobody waits for
        must not live on; the end of this process waits for the proof."""
        if self.done():
            return
        self._display.warning(
            "the task that awaited this was cancelled: stopping the function, destroying the machine, proving it gone"
            " (asyncio.shield lets it go on)"
        )
        threading.Thread(target=self.stop, name="dayfly-stop", daemon=True).start()

    async def begun(self) -> Self:
        """This job, once its id is known: no property blocks any more."""
        try:
            await self._known.come()
        except asyncio.CancelledError:
            self.abandon()
            raise
        return self

    # -- what waits and what runs

    def result(self, timeout: float | None = None) -> R:
        """As of a Future; an interrupt ends the wait whichever thread was given the signal."""
        wakeful.wait(self._ended, timeout)
        self._hear()
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of a Future; an interrupt ends the wait whichever thread was given the signal."""
        wakeful.wait(self._ended, timeout)
        self._hear()
        return super().exception(0)

    def _failure(self) -> BaseException | None:
        """How it has failed; who looks here has not asked for it."""
        return super().exception(0)

    def _hear(self) -> None:
        """Somebody has asked how it ended, and need not be told at the end of the process."""
        self._heard = self._heard or self.done()
        if self._heard:
            at_exit.unheard.pop(self._unheard, None)

    def _note_failure(self) -> None:
        """Has a failure told at the end of the process, unless somebody asks before; a wish is none, and a leak is told at once."""
        error = None if self.cancelled() or not self.done() else self._failure()
        if error is None or isinstance(error, JobStopped | Detached | LeakRisk):
            return
        words = "".join(traceback.format_exception_only(error))
        name = f"run {self._id[:12]}" if self._id else "a job"
        at_exit.unheard[self._unheard] = (
            f"dayfly: {name} has failed, and nobody has asked for its value:\n{words}"
        )
        if self._heard:
            self._hear()

    def _ended(self, turn_s: float) -> bool:
        with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
            super().exception(turn_s)
        return self.done()

    def wait_closed(self) -> None:
        """Waits until the machine is proved gone or the attempt to prove it has failed."""
        self._closed.wait()

    def block_failed(self) -> None:
        """The block that made its calls was left by an exception: to `keep="on-failure"` that is a call that has failed."""
        if self._attendance is not None:
            self._attendance.failed = True

    def leave(self) -> str:
        """Leaves the teardown to the keeper, so that this process may end now.

        Returns:
            The command that does it by hand.
        """
        self._left = True
        at_exit.open_jobs.discard(self)
        if self._stack is None or not self._stack.directory.exists() or self._closed.is_set():
            return "dayfly gc"
        self._stack.leave_open()
        journal.append(self._stack.directory, "cancelled", by=journal.myself())
        mine = journal.whose(self._stack.directory)
        journal.append(self._stack.directory, "detached", by=journal.myself(), **mine)
        if self._attendance is not None:
            self._attendance.entrust(self._workspace, journal.read(self._stack.directory))
        return f"dayfly gc --run {self._stack.id} --yes"

    @property
    def leak(self) -> LeakRisk | None:
        """The failed proof, if the teardown ended with one."""
        return self._teardown_error

    @property
    def display(self) -> Display:
        """Where it is shown."""
        return self._display

    def _begin(self, work: Callable[[], object]) -> None:
        at_exit.open_jobs.add(self)
        threading.Thread(target=self._guarded, args=(work,), name="dayfly-job", daemon=True).start()

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            if self.set_running_or_notify_cancel():
                work()
        except BaseException as error:  # noqa: BLE001  # whatever it was, whoever waits must learn of it
            if not self.done():
                self._conclude(functools.partial(self.set_exception, error))
        finally:
            self._known.set()
            try:
                self._note_failure()
            finally:
                at_exit.open_jobs.discard(self)
                self._closed.set()

    def _join(self, stack: RunStack) -> None:
        self._stack = stack
        self._id = stack.id
        self._known.set()
        self._news.ring()

    def _run(self, call: Call) -> None:
        lineage, left, fresh = "", call.spec.retries, False
        self._unfit = UnfitMachines(call.offers, call.spec.max_machines)
        while True:
            attendance = Attendance(
                self._display,
                lineage=lineage,
                plan=call.plan_on,
                joined=self._join,
                news=self._news.ring,
            )
            attendance.fresh = fresh or call.planned
            self._attendance = attendance
            if self._stopped:
                attendance.stop()
            work = functools.partial(call.attempt, attendance, self._unfit.offers)
            error = self._settle(work, last=left == 0, wait=call.spec.wait_for_teardown)
            if error is None or self.done():
                return
            self._earlier = error
            lineage = lineage or self._id
            fresh = fresh or isinstance(error, KeptMachineLost)
            if isinstance(error, MachineUnfit):
                self._display.note(f"{error}; it is destroyed, and another machine is tried")
                continue
            self._display.note(f"attempt failed: {type(error).__name__}: {error}; {left} more")
            left -= 1

    def _settle(
        self, work: Callable[[], Any], *, last: bool, wait: bool = False
    ) -> BaseException | None:
        """Runs one attempt and delivers its outcome, unless it failed and another attempt follows."""
        attendance = self._attendance
        assert attendance is not None
        attendance.early = None if wait else lambda value: self._deliver(value, only_value=not last)
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001  # a job's thread has no one above it
            return self._failed(error, last)
        self._deliver(lambda: value)
        self._show_receipt()
        return None

    def _failed(self, error: BaseException, last: bool) -> BaseException:
        if isinstance(error, Detached):
            self._conclude(functools.partial(self.set_exception, error))
            return error
        if isinstance(error, BudgetExceeded) and self._earlier is not None:
            # Nothing of this attempt was made, and why the one before failed is what its caller has to know.
            self._earlier.add_note(f"there was no further attempt: {error}")
            self._conclude(functools.partial(self.set_exception, self._earlier))
            return self._earlier
        original = error
        leak = self._unproved(error)
        if leak is not None:
            self._leaked(leak)
            last = True  # while one machine may be alive, no other is made
            if error is not leak:
                original.add_note(str(leak))
            elif leak.__context__ is not None:
                original = leak.__context__
                original.add_note(str(leak))
        else:
            self._show_receipt()
        if self._closed_by_another():
            original, last = (
                JobStopped(f"run {self._id} was cancelled or destroyed by another command"),
                True,
            )
        attendance = self._attendance
        if attendance is not None and attendance.stopping and not isinstance(original, JobStopped):
            original = JobStopped(f"run {self._id} was stopped on request")
        if isinstance(original, MachineUnfit) and leak is None:
            # The function was not started there, so this is no attempt of it, and takes none of its retries.
            last = not self._another_machine(original)
        if (last or not _worth_another(original)) and not self.done():
            self._conclude(functools.partial(self.set_exception, original))
        return original

    def _another_machine(self, error: MachineUnfit) -> bool:
        if isinstance(error, KeptMachineLost):
            return True  # it was none that this call has asked for
        attendance, unfit = self._attendance, self._unfit
        return (
            unfit is not None and attendance is not None and unfit.another(error, attendance.offer)
        )

    def _unproved(self, error: BaseException) -> LeakRisk | None:
        """The proof that failed, in whatever way it did; None where the run is closed or in other hands."""
        if isinstance(error, LeakRisk):
            return error
        if self._stack is None or not self._stack.needs_closing:
            return None
        run = self._stack.id
        command = f"dayfly gc --run {run} --yes"
        return LeakRisk(
            f"run {run}: its teardown failed ({type(error).__name__}: {error}), and it is not proved that its machine is"
            f" gone. Finish: {command}",
            run=run,
            command=command,
        )

    def _closed_by_another(self) -> bool:
        """Whether somebody else ended this run, on purpose: that is no failure to try again after."""
        if self._stack is None:
            return False
        history = journal.read(self._stack.directory)
        closing = history.last("closing")
        cancelled = history.last("cancelled")
        acts = [event for event in (closing, cancelled) if event is not None]
        return any(event.fields["by"]["pid"] != os.getpid() for event in acts)

    def _leaked(self, error: LeakRisk) -> None:
        self._teardown_error = error
        at_exit.remember(error)
        self._display.warning(str(error))

    def _deliver(self, value: Callable[[], Any], only_value: bool = False) -> None:
        if self.done():
            return
        try:
            found = value()
        except BaseException as error:  # noqa: BLE001  # the function's own exception, whatever it is
            if not only_value:
                self._conclude(functools.partial(self.set_exception, error))
            return
        self._conclude(functools.partial(self.set_result, found))

    def _conclude(self, settle: Callable[[], None]) -> None:
        """Has the outcome set, and the callbacks run, in another thread; returns when it is set.

        Callbacks are the user's: they may take hours, or wait for the receipt, and this thread has a machine to destroy.
        """
        # Though this thread is a daemon: the process does not end before the callbacks have.
        callbacks = threading.Thread(target=settle, name="dayfly-callbacks", daemon=False)
        try:
            callbacks.start()
        except RuntimeError:
            # None can be had; whoever waits must hear of the outcome all the same.
            settle()
        concurrent.futures.wait((self,))

    def _show_receipt(self) -> None:
        if self._stack is not None and self._stack.receipt is not None:
            self._display.receipt(self._stack.receipt)


def _worth_another(error: BaseException) -> bool:
    """Whether another attempt may end otherwise: the function's own exceptions and a machine's failures may."""
    if isinstance(error, ProvisionFailed):
        return error.kind in ("capacity", "rate_limit", "transient", "unknown")
    return isinstance(error, Exception) and not isinstance(error, _FINAL)
