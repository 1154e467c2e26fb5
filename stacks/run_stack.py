"""RunStack: the Pulumi stack of one Run; up on entering, destroyed and proved gone on leaving, whatever happens."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from dayfly.errors import (
    BudgetExceeded,
    JobStopped,
    NoCapacity,
    PolicyDenied,
    ProvisionFailed,
)
from dayfly.infra import providers
from dayfly.infra.machine import Machine
from dayfly.infra.offers import Offer
from dayfly.infra.run import new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import engine_processes, failures, intent, isolated, journal
from dayfly.stacks.behind import Behind
from dayfly.stacks.closer import Closer
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event, History
from dayfly.stacks.ladder import Ladder
from dayfly.stacks.program import Request
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.workspace import Workspace

Observe = Callable[[Event], None]
_POLL_S = 0.01


class RunStack:
    """The stack of one Run.

    Lifecycle: constructing makes nothing but a random id; entering writes the intent, brings the stack up and returns
    the Machine; leaving destroys it and proves it gone, unless `leave_open` handed the run on. `close` twice is fine.

    Args:
        spec: what is asked for.
        workspace: where the run is kept.
        engine: the Pulumi CLI; None is enough to take a run over and to close it.
        offers: the ladder; the next one is taken when one has no capacity.
        observe: told every event of the journal as it is written.
        details: what the journal should also know: function, code digest, environment, lineage.
        renamed: told when the next rung of the ladder has begun, which is a run with another id.
        permit: raises PolicyDenied for an Offer that must not be taken; a refusal may name one that was not in `offers`.
    """

    def __init__(
        self,
        spec: Spec,
        workspace: Workspace,
        engine: Engine | None,
        offers: Sequence[Offer],
        *,
        observe: Observe = lambda _: None,
        details: Mapping[str, Any] | None = None,
        renamed: Callable[[RunStack], None] = lambda _: None,
        permit: Callable[[Offer], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.id = new_id()
        self.workspace = workspace
        self.directory = workspace.directory(self.id)
        self.receipt: Receipt | None = None
        self._engine = engine
        self._offers = tuple(offers)
        self._observe = observe
        self._details = dict(details or {})
        self._renamed = renamed
        self._permit = permit
        self._seen = 0
        self._open = False
        self._program: subprocess.Popen[bytes] | None = None
        self._resumed: Machine | None = None
        self._cancelled = threading.Event()
        self._behind: list[Behind] = []

    @classmethod
    def resume(
        cls,
        history: History,
        workspace: Workspace,
        engine: Engine | None,
        *,
        observe: Observe = lambda _: None,
    ) -> RunStack:
        """The stack of a run that another client has brought up: entering takes it over, leaving destroys it."""
        stack = cls(Spec(**history.intent["spec"]), workspace, engine, (), observe=observe)
        stack.id, stack.directory = history.id, history.directory
        stack._seen = len(history.events)
        stack._resumed = history.machine
        return stack

    def __enter__(self) -> Machine:
        """Brings the stack up.

        Raises:
            ProvisionFailed: it did not come up; what there was of it is gone.
            LeakRisk: it did not come up, and it is not proved that nothing is left.
        """
        if self._resumed is not None:
            self._open = True
            return self._resumed
        try:
            return self._climb(Ladder(self.spec, self._offers))
        except BaseException as error:
            with _noted(error):
                self._see_behind_gone()
            raise

    def _climb(self, ladder: Ladder) -> Machine:
        """The machine of the first rung that has capacity, and that policies, quotas and what is left of the budgets allow."""
        short, full = list[BudgetExceeded | PolicyDenied | ProvisionFailed](), 0
        while (offer := ladder.next()) is not None:
            if ladder.refusals:
                self._rename()
            try:
                self._permit(offer)
                return self._up(offer)
            except ProvisionFailed as failed:
                if failed.kind not in ("capacity", "quota"):
                    raise
                ladder.refused(offer, failed)
                self._say(f"no {failed.kind}: {ladder.refusals[-1]}")
                if failed.kind == "capacity":
                    full += 1
                else:
                    short.append(failed)
            except (BudgetExceeded, PolicyDenied) as refusal:
                short.append(refusal)
                ladder.refused(offer, refusal)
        if short and not full:
            raise short[0]
        refusals = "\n".join(ladder.refusals)
        raise NoCapacity(f"tried {len(ladder.refusals)} offers:\n{refusals}")

    def _rename(self) -> None:
        """The next rung is a run of its own."""
        self.id = new_id()
        self.directory = self.workspace.directory(self.id)
        self._seen, self._program = 0, None
        self._renamed(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            warnings.warn(
                f"run {self.id} was never closed; `dayfly gc --run {self.id} --yes`",
                ResourceWarning,
                stacklevel=2,
            )

    def record(self, event: str, **fields: Any) -> None:
        """Writes an event to the journal and shows it."""
        journal.append(self.directory, event, **fields)
        self._show_new_events()

    @property
    def needs_closing(self) -> bool:
        """True while something may be up that nobody else has been given to close."""
        return self._open

    def cancel(self) -> None:
        """Gives up waiting for the machine, from any thread; entering raises JobStopped when all of it is gone."""
        self._cancelled.set()

    def leave_open(self) -> None:
        """Leaving will not destroy the stack: someone else has been given that task."""
        self._open = False
        if self._program is not None:
            self._program.poll()

    def close(self, report: Callable[[str], None] | None = None) -> Receipt:
        """Destroys and proves.

        Raises:
            LeakRisk: absence could not be proved.
        """
        self.receipt = Closer(self.workspace, self._engine, report or self._say).close(self.id)
        self._open = False
        if self._program is not None:
            self._program.wait()
        self._show_new_events()
        self._see_behind_gone()
        return self.receipt

    def _say(self, text: str) -> None:
        self._observe(Event("progress", time.time(), {"text": text}))

    def _leave_behind(self) -> None:
        """Closes a rung that had no capacity while the next one begins: nothing of it can cost money any more."""
        behind = Behind(self.workspace, self._engine, self.id, self._program, self._say)
        self._open = False
        self._behind.append(behind)
        behind.start()

    def _see_behind_gone(self) -> None:
        """Waits until nothing is left of the rungs below.

        Raises:
            LeakRisk: absence could not be proved of one.
        """
        while self._behind:
            self._behind.pop().finish()

    def _up(self, offer: Offer) -> Machine:
        request = self._prepare(offer)
        self._open = True
        try:
            self._program = self._start(request)
            return self._machine(self._program, offer)
        except BaseException as error:
            self._interrupt_engine()
            full = isinstance(error, ProvisionFailed) and error.kind == "capacity"
            # Of several machines some may be there, and cost money.
            if full and self.spec.nodes == 1:
                self._leave_behind()
                raise
            with _noted(error):
                self.close()
            raise

    def _prepare(self, offer: Offer) -> Request:
        assert self._engine is not None
        run = intent.write(
            self.workspace, self.id, self.spec, offer, client=journal.myself(), **self._details
        )
        self._show_new_events()
        request = Request(
            run,
            self.spec,
            offer,
            self._engine.path,
            self._engine.version,
            self.workspace.project_directory(self.id),
            self.workspace.secrets_provider,
        )
        request.write()
        return request

    def _start(self, request: Request) -> subprocess.Popen[bytes]:
        assert self._engine is not None
        with self.workspace.operation_slot(self._cancelled.is_set) as slot:
            if slot is None:
                raise JobStopped(f"run {self.id} was stopped before anything was created")
            return isolated.start(
                [sys.executable, "-m", "dayfly.stacks.program", str(self.directory), "up"],
                cwd=request.project,
                log=self.directory / journal.PROGRAM_LOG,
                environment=self.workspace.environment(
                    self._engine, self.id, providers.load(request.offer.provider)
                ),
                pass_fds=(slot,),
            )

    def _machine(self, process: subprocess.Popen[bytes], offer: Offer) -> Machine:
        """The first machine, as soon as the program has journaled all of them.

        The engine takes another second for its own bookkeeping, in its own process; closing waits for that.
        """
        while True:
            ended = process.poll() is not None
            machines = self._show_new_events().machines
            if len(machines) == self.spec.nodes:
                return machines[0]
            if self._cancelled.is_set():
                raise JobStopped(f"run {self.id} was stopped before its machine was ready")
            if ended:
                raise failures.of_program(self.directory, process.returncode, offer.provider)
            full = failures.of_capacity(self.directory, offer.provider)
            if full is not None:
                raise full
            time.sleep(_POLL_S)

    def _interrupt_engine(self) -> None:
        """One graceful signal, never two: the create in flight ends and is recorded, nothing new begins."""
        for process in engine_processes.of(self.id):
            with contextlib.suppress(Exception):
                if process.name() == "pulumi":
                    process.send_signal(signal.SIGINT)

    def _show_new_events(self) -> History:
        history = journal.read(self.directory)
        for event in history.events[self._seen :]:
            self._observe(event)
            if event.name == "launched":
                for behind in self._behind:
                    behind.release()
        self._seen = len(history.events)
        return history


@contextlib.contextmanager
def _noted(error: BaseException) -> Iterator[None]:
    """A failed cleanup is reported with what to do by hand and never hides the first error."""
    try:
        yield
    except Exception as cleanup:
        if isinstance(error, Exception):
            raise cleanup from error
        error.add_note(str(cleanup))
