"""Attendance: one client's hold on one attempt of a job, from the stack to the value."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import (
    ConnectFailed,
    DayflyError,
    DeadlineReached,
    Detached,
    Forged,
    InstanceLost,
    JobStopped,
    KeeperMissing,
    MachineUnfit,
    OutputsFailed,
    ResultFailed,
    RunFailed,
    TakenOver,
)
from dayfly.infra import providers
from dayfly.infra.found import State
from dayfly.infra.listing import Listing
from dayfly.infra.machine import Machine
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.infra.spec import DEFAULT_GRACE_S
from dayfly.runtime import ending, entrust, ledger, outputs, ranks, stored, taking
from dayfly.runtime.agent import frames
from dayfly.runtime.deposit import Deposit
from dayfly.runtime.display import Display
from dayfly.runtime.idle_watch import Idle, IdleWatch
from dayfly.runtime.ledger import Times
from dayfly.runtime.ranks import RankDisplay
from dayfly.runtime.run_log import RunLog
from dayfly.runtime.sample_log import SampleLog
from dayfly.stacks import account, hands, journal
from dayfly.stacks.beside import Beside, is_wanted
from dayfly.stacks.bill import machine_rate_of
from dayfly.stacks.engine import Engine
from dayfly.stacks.journal import Event, History
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import hold_until
from dayfly.stacks.workspace import Workspace

if TYPE_CHECKING:
    from dayfly.runtime.checkpoints import Checkpoints
    from dayfly.runtime.parts import Parts
    from dayfly.runtime.records import JobEnd, Keys
    from dayfly.runtime.session import SampleSink, Session, Sink

# So much of the time until the deadline is kept for bringing the log and what there is of a result back.
_RESERVE_SHARE, _RESERVE_MOST_S = 0.1, 60.0
# Where the pinned host key comes with user_data, the machine shows it only when cloud-init has got so far.
CONNECT_S, _USER_DATA_S = 60.0, 300.0
# Between two tries to have a keeper where none can be started, the first and the longest.
_KEEPERLESS_S, _KEEPERLESS_MOST_S = 50.0, 900.0
# A firewall is asked about no more often than this while its machine cannot be reached.
_ADMIT_EVERY_S = 60.0
# Behind the grace of a function that is asked to end, for the answer.
_ANSWER_S = 10.0
# Whoever detaches waits so long until another computer can attach.
_DEPOSIT_S = 60.0


def _leave_there(_stream: str, _offset: int, _data: bytes) -> None:
    """A log that cannot be masked here is neither shown nor kept."""


class _NeverStarted(Exception):
    """The machine knows of no job."""


class Attendance:
    """One attempt, as its client sees it.

    Args:
        display: where progress is shown.
        lineage: the id of the first attempt, "" in the first.
        plan: makes the Plan of the resources that the program declares; None where a plan was shown long ago.
        joined: told the stack, and each one that follows it.
        news: told when the function runs, and whenever its log has grown.

    Attributes:
        fresh: a machine that is kept is not to be taken: one that was could not be used.
        serves: the run makes this client's calls: where it ends before its time, it has not done what it was for.
        failed: the block in which it made them was left by an exception.
        began: when the call was asked for, on the clock of `time.perf_counter`; None where another client has done that.
        sent: what this client knows of sending it.
    """

    def __init__(
        self,
        display: Display,
        *,
        lineage: str = "",
        plan: Callable[[Listing, Offer], Plan] | None = None,
        joined: Callable[[RunStack], None] = lambda _: None,
        news: Callable[[], None] = lambda: None,
    ) -> None:
        self.display = display
        self.lineage = lineage
        self.phase = "queued"
        self.early: Callable[[Callable[[], Any]], None] | None = None
        self.fresh = self.serves = self.failed = False
        self.began: float | None = None
        self.sent = Times()
        self.run_stack: RunStack | None = None
        self._plan = plan
        self.joined = joined
        self._news = news
        self._session: Session | None = None
        self._following, self._with_log = False, True
        self._keeper: dict[str, Any] | None = None
        self._keeperless_s = self._keeperless_until = 0.0
        self._admit_at = 0.0
        self._stop_s = DEFAULT_GRACE_S + _ANSWER_S
        self._stopping, self._detaching = threading.Event(), threading.Event()
        self._deposit: Deposit | None = None
        self._attached_at = "on this computer"
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stack(self, run_stack: RunStack) -> Iterator[Machine]:
        """The machine of a stack, with every step shown; leaving destroys it."""
        self.run_stack = run_stack
        self.joined(run_stack)
        if self._stopping.is_set():
            raise JobStopped("stopped before anything was created")
        try:
            self.display.run_id = run_stack.id
            with _teardown_shown(self, run_stack) as machine:
                self.step("connect")
                yield machine
        finally:
            self.display.done()

    @property
    def directory(self) -> Path:
        """The run's directory."""
        assert self.run_stack is not None
        return self.run_stack.directory

    @property
    def history(self) -> History:
        """What the journal knows so far."""
        return journal.read(self.directory)

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of all attempts."""
        from dayfly.runtime.checkpoints import Checkpoints

        return Checkpoints(self.directory.with_name(self.lineage or self.directory.name))

    @property
    def keys(self) -> Keys:
        """The keys of this run."""
        from dayfly.runtime.records import Keys

        return Keys.of(self.directory)

    def session(
        self, machine: Machine, *, connect_timeout_s: float = CONNECT_S, kept: bool = True
    ) -> Session:
        """The session with the machine, or with all of them; the provider is asked whether one lives that cannot be reached.

        Args:
            machine: the first, where there are several.
            connect_timeout_s: patience with it.
            kept: whether a keeper is seen to while a job is followed; False in an act of the keeper itself.
        """
        from dayfly.runtime.session import Session

        waits_s = _USER_DATA_S if machine.host_key_bootstrap else 0.0
        patience_s = max(connect_timeout_s, waits_s)
        meanwhile = self.stay_kept if kept else lambda: None
        _, *others = self.history.machines or (machine,)
        if others:
            return self._fleet(machine, others, patience_s, meanwhile)
        return Session(
            machine,
            self.keys,
            connect_timeout_s=patience_s,
            state=self._state_of(machine),
            meanwhile=meanwhile,
        )

    def _fleet(
        self,
        machine: Machine,
        others: Sequence[Machine],
        patience_s: float,
        meanwhile: Callable[[], None],
    ) -> Session:
        from dayfly.runtime.fleet import Fleet
        from dayfly.runtime.session import Session

        keys = self.keys
        for other in others:
            ranks.folder(self.directory, other.node).mkdir(mode=0o700, parents=True, exist_ok=True)
        return Fleet(
            machine,
            keys,
            [
                Session(each, keys, connect_timeout_s=patience_s, state=self._state_of(each))
                for each in others
            ],
            by_rank=self._by_rank,
            directory=self.directory,
            log=self._log_of,
            samples=self._samples_of,
            stay=self._stay_up,
            grace_s=asked_grace_s(self.history),
            connect_timeout_s=patience_s,
            state=self._state_of(machine),
            meanwhile=meanwhile,
        )

    @property
    def _by_rank(self) -> bool:
        """Whether the function runs on each of several machines."""
        spec = self.history.intent.get("spec", {})
        return bool(spec.get("distributed")) and self.history.nodes > 1

    def _state_of(self, machine: Machine) -> Callable[[], State]:
        def state_now() -> State:
            # Asked for in trouble only, and no part of what a client loads to begin with.
            from dayfly.runtime import drift

            state = drift.state_now(self.history, machine.id)
            if state == "running" and time.monotonic() >= self._admit_at:
                self.admit()
            return state

        return state_now

    def admit(self) -> None:
        """Has machines that live and do not answer let this computer in at the address that it has now."""
        from dayfly.runtime import admission

        self._admit_at = time.monotonic() + _ADMIT_EVERY_S
        admission.admit(self.history, self.display.note)

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline of the machine.

        Raises:
            DeadlineReached: there are none.
        """
        left = self.history.deadline - time.time()
        if left <= 0:
            raise DeadlineReached(
                f"run {self.directory.name}: max_runtime was over before the function could start"
            )
        return left

    @property
    def function_limit_s(self) -> float:
        """Seconds that the function itself may take, so that its log comes back before the machine ends."""
        left = self.remaining_s
        longer = max(0.0, self.grace_s - DEFAULT_GRACE_S)
        return left - min(_RESERVE_MOST_S, left * _RESERVE_SHARE) - longer

    @property
    def grace_s(self) -> float:
        """Seconds between asking the function to end and ending it; what had to be waited for first may have left less."""
        return min(asked_grace_s(self.history), max(DEFAULT_GRACE_S, self.remaining_s / 2))

    def step(self, name: str, detail: str = "") -> None:
        """Begins a step of the call."""
        self.phase = name
        self.display.step(name, detail)

    def record(self, event: str, **fields: Any) -> None:
        """Journals an event."""
        assert self.run_stack is not None
        self.run_stack.record(event, **fields)

    def entrust(self, workspace: Workspace, *runs: History) -> dict[str, Any] | None:
        """Gives runs into the keeper's care, with what only this process has for them; it is started where it is not.

        Returns:
            The keeper; None where there is none, which is said: it is no reason not to go on.
        """
        # Each try may take a quarter of a minute, in which nothing of the log comes.
        if time.monotonic() < self._keeperless_until:
            return None
        try:
            self._keeper = entrust.entrust(workspace, runs)
        except (DayflyError, OSError) as missing:
            self._keeper = None
            if not self._keeperless_s:
                self.display.warning(
                    f"the keeper is not there ({missing}): were this process killed, its machine would live until the"
                    " next dayfly command, or its deadline"
                )
            self._keeperless_s = min(_KEEPERLESS_MOST_S, self._keeperless_s * 2 or _KEEPERLESS_S)
            self._keeperless_until = time.monotonic() + self._keeperless_s
        else:
            self._keeperless_s = 0.0
        return self._keeper

    def stay_kept(self) -> None:
        """Gives the run into a new keeper's care where the last one has ended: nobody else would see to that before the
        next command, and the function may run for days."""
        if self._keeper is None or not journal.is_alive(self._keeper):
            assert self.run_stack is not None
            # An unreadable journal, or a full disk, is for the one to raise who needs it.
            with contextlib.suppress(OSError):
                self.entrust(self.run_stack.workspace, self.history)

    def deposit(self, workspace: Workspace, engine: Engine | None) -> None:
        """Has what another computer needs to take the run in hand kept beside the state, in the background, where that is
        kept where other computers reach it."""
        if workspace.is_remote and is_wanted(self.history):
            beside = Beside(workspace, engine)
            self._deposit = Deposit(beside, self.directory, self.display.warning)
            self._deposit.begin()

    def seal(self, task: Parts) -> Parts:
        """Seals the task for this run."""
        keys = self.keys
        return task.sealed(keys.hmac_key, keys.run_id, frames.TASK_SEQ)

    def connected(self, session: Session) -> None:
        """The session is there; a stop that came meanwhile takes effect."""
        # The first machine last: where the run is said to be is where it is.
        for each in (*session.others, session):
            facts = each.facts
            self._recorder(each)(
                "connected",
                host=facts.hostname,
                platform=facts.platform,
                agent_pid=facts.agent_pid,
                gpus=list(facts.gpus),
                driver=facts.driver,
            )
        with self._lock:
            self._session = session
        self._news()
        if self._stopping.is_set():
            raise JobStopped("stopped before the function was started")

    def _recorder(self, session: Session) -> Callable[..., None]:
        """What journals an event of that machine."""
        node = session.machine.node
        return functools.partial(self.record, node=node) if node else self.record

    @property
    def reached(self) -> Session | None:
        """The session with the machine; None as long as there is none."""
        return self._session

    @property
    def offer(self) -> Offer:
        """What this attempt's machine was bought as."""
        return Offer(**self.history.intent["offer"])

    def check_machine(self, session: Session) -> None:
        """Gives the machine a host key of its own, and holds its GPUs against its Offer; journals what came of it.

        Raises:
            MachineUnfit: it cannot be used; the attempt is marked, since it was not the function that failed.
        """
        from dayfly.runtime import host_key

        try:
            for each in (session, *session.others):
                host_key.rotate(each, self._recorder(each))
                self._verify_gpus(each)
        except MachineUnfit as unfit:
            # A session that was closed under it, because the job is to stop, says nothing of the machine.
            if not self.stopping:
                self.record("machine_unfit", check=unfit.check, found=unfit.found)
            raise

    def arm_deadline(self, session: Session) -> None:
        """Has the machine end the run at its deadline, and itself where its provider ends what is switched off.

        Raises:
            DeadlineReached: that is now.
        """
        by = self._armed(session)
        action = providers.load(session.machine.provider).limits.deadline_action
        self.record("deadline_armed", by=by, action=action)

    def _armed(self, session: Session) -> str:
        provider = providers.load(session.machine.provider)
        return session.arm_deadline(
            self.remaining_s,
            timer=not provider.same_computer,
            power_off=provider.limits.deadline_action == "poweroff",
        )

    def _stay_up(self, session: Session) -> None:
        """A rank that has ended is held until the others have; where that cannot be had, its hold must do."""
        with contextlib.suppress(DayflyError):
            self._armed(session)

    def _verify_gpus(self, session: Session) -> None:
        offer = self.offer
        # Those of this computer are its own, and nothing is paid for them.
        if not offer.gpus or providers.load(offer.provider).same_computer:
            return
        from dayfly.runtime import gpu

        findings = gpu.verify(session, offer, session.machine.id)
        names = [found.name for found in findings.listed]
        self._recorder(session)("gpus_verified", gpus=names, driver=findings.driver)

    def observe(self, event: Event) -> None:
        """Shows what the journal says of the stack; what it intends is given into the keeper's care first."""
        if event.name == "intent":
            assert self.run_stack is not None
            self.entrust(self.run_stack.workspace, self.history)
            self.step("provision", event.fields["provider"])
        elif event.name == "resources" and self._plan is not None:
            told = event.fields
            listing = Listing.of(told["resources"], told["resources_from"])
            plan = self._plan(listing, self.offer)
            self.display.plan(plan, self.directory.name)
        elif event.name == "machine":
            self.display.done(event.fields["id"])
            if event.fields.get("firewall"):
                self.display.note(f"firewall: {event.fields['firewall']}")
        elif event.name == "progress":
            self.display.note(event.fields["text"])

    def finish(self, session: Session, *, with_log: bool = True) -> Any:
        """Steps 6 and 7: follows the log to the end, brings result and outputs home, checks them, and lets the machine forget them.

        Args:
            session: with the machine.
            with_log: False has the end waited for, and the log stay there.

        Returns:
            The function's value.

        Raises:
            Exception: the function's own, or a RunFailed or ResultFailed of ours.
        """
        try:
            return self._finished(session, with_log=with_log)
        finally:
            self.enter_call()

    def enter_call(self) -> None:
        """Writes the run's line of the ledger, as each call of a session has one, unless it has one, or its end is not known.

        A full disk costs the record, never the call.
        """
        total_s = None if self.began is None else time.perf_counter() - self.began
        with contextlib.suppress(OSError):
            ledger.enter_run(self.history, self.sent, total_s)

    def _finished(self, session: Session, *, with_log: bool) -> Any:
        with self._left_there_in_trouble():
            with self._checkpoints_kept(session):
                end = self._follow(session, with_log=with_log)
            if end is None:
                raise _NeverStarted
            if self._deposit is not None:
                self._deposit.over()
            self._lengthen_hold(session)
            result = self._bring_home(session, end)
            self._bring_outputs(session)
            self._acknowledge(session)
        if result is None:
            raise ending.failure(self.directory, end, session.deciding)
        if self.serves and end.cue:
            return self._handed_over(_raising(ending.failure(self.directory, end)))
        if result.get("outcome") == "value":
            self.checkpoints.discard()
        rank, nested = session.deciding, self.history.is_shared_out
        return self._handed_over(lambda: ending.value(self.directory, end, rank, nested=nested))

    def _bring_outputs(self, session: Session) -> None:
        for node, each in enumerate((session, *session.others)):
            outputs.bring(self, each, node)

    def _checkpoints_kept(self, session: Session) -> AbstractContextManager[None]:
        """Only for a job that may be attempted again, and whose machine does not keep them in a bucket by itself."""
        spec = self.history.intent.get("spec", {})
        if spec.get("checkpoints") or not spec.get("retries"):
            return contextlib.nullcontext()
        return self.checkpoints.kept(session, self.display.warning, lambda: not self.stopping)

    def hold(self, session: Session, *, with_log: bool) -> JobEnd | None:
        """Brings home what a job has left whose client is gone; the machine keeps it too, until the end of the hold.

        Args:
            session: with the machine.
            with_log: whether the log may come, too: a log whose secrets cannot be masked here stays there.

        Returns:
            How the job ended; None while it runs.

        Raises:
            RunFailed: it was never started.
        """
        status = session.status()
        if status.state == "absent":
            raise RunFailed(f"run {self.directory.name}: the function was never started there")
        if status.end is None:
            return None
        end = self._follow(session) if with_log else status.end
        if not with_log:
            self._bring_samples(session)
        if end is None:
            raise RunFailed(f"run {self.directory.name}: the function was never started there")
        self._bring_home(session, end)
        self.enter_call()
        self._bring_outputs(session)
        self.record("held", with_log=with_log)
        if self.history.intent.get("warm") and with_log:
            # Its client was its whole purpose, and what that has not fetched is here: nothing on the machine is waited for.
            self._acknowledge(session)
        return end

    def _bring_samples(self, session: Session) -> None:
        """What the job has used is no secret, also where its log may hold some."""
        for node, each in enumerate((session, *session.others)):
            samples = self._sample_log(node)
            # Of a machine that is lost more will be heard at the next step; nothing else may cost the result.
            with contextlib.suppress(RunFailed):
                found = each.look(samples.last)
                samples.take(found.last, found.samples)

    def _bring_home(self, session: Session, end: JobEnd) -> dict[str, Any] | None:
        """What is said of the result, which is checked and on this computer's disk; None where the job has left none."""
        whose = {} if session.deciding is None else {"rank": session.deciding}
        self.record("job_ended", **dataclasses.asdict(end), **whose)
        if end.how != "finished":
            return None
        self.step("result")
        session.fetch_result(self.directory / stored.RESULT)
        self.record("result_fetched", bytes=(self.directory / stored.RESULT).stat().st_size)
        summary = stored.summary(self.directory)
        self.record("result", **summary)
        return summary

    def _lengthen_hold(self, session: Session) -> None:
        """The hold is for a client that is gone: this one is here, and may take its time over a large result."""
        try:
            self.arm_deadline(session)
        except (InstanceLost, ConnectFailed):
            raise
        except DayflyError as refused:
            # A full disk there, or the deadline itself: the hold that is armed must do.
            self.record("hold_not_lengthened", reason=str(refused))

    def _acknowledge(self, session: Session) -> None:
        """The machine may forget the result; one that cannot even do that is destroyed all the same."""
        refusal = None
        try:
            session.acknowledge()
        except TakenOver:
            raise
        except DayflyError as refused:
            refusal = str(refused)
        self.record("acknowledged", **({"refused": refusal} if refusal else {}))

    @contextlib.contextmanager
    def _left_there_in_trouble(self) -> Iterator[None]:
        """Trouble on this side, or on the way, is no reason to destroy what goes on, or waits, there."""
        try:
            yield
        except _NeverStarted:
            raise RunFailed(
                f"run {self.directory.name}: the machine knows no such job: the function was never started there, or it"
                " has deleted its own home folder; call it again"
            ) from None
        except TakenOver as taken:
            raise self._yielded(taken) from None
        except (DeadlineReached, Forged, OutputsFailed):
            raise
        except DayflyError as trouble:
            if self._stopping.is_set():
                raise
            if self._detaching.is_set():
                raise self._let_go() from None
            if time.time() >= self.history.deadline - 1:
                raise DeadlineReached(
                    f"run {self.directory.name}: its machine ended at the deadline; raise max_runtime or max_cost"
                ) from trouble
            gone = isinstance(trouble, InstanceLost) and bool(trouble.state)
            if gone or not self.machine_runs():
                if taking.was_ended_elsewhere(self):
                    raise taking.ended_elsewhere(self.directory.name) from trouble
                raise
            raise self.left_there(trouble) from trouble
        except OSError as trouble:
            raise self.left_there(trouble) from trouble

    def machine_runs(self) -> bool:
        """Whether the provider says that the machine lives, or all of them do; one that cannot be asked has not said that it
        is gone, and the keeper goes on asking."""
        machines = self.history.machines
        if account.trouble(self.history):
            return bool(machines)
        return bool(machines) and all(map(_may_run, machines))

    def left_there(self, trouble: Exception) -> ResultFailed:
        """Hands the run on: it stays up for `attach`, and the keeper ends it when its time is over."""
        assert self.run_stack is not None
        until = hold_until(self.history)
        self.run_stack.leave_open()
        mine = journal.whose(self.directory)
        self.record("detached", by=journal.myself(), reason=str(trouble), **mine)
        self.entrust(self.run_stack.workspace, self.history)
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
        run = self.directory.name
        if self.serves:
            return ResultFailed(
                f"run {run}: {trouble}. Its machine is still up, and makes the calls that it has, until {clock} at the latest;"
                f" then the keeper brings here what they give, and destroys it: dayfly result {run[:12]}"
            )
        return ResultFailed(
            f"run {run}: {trouble}. Its machine is still up, and what its function has left is safe there until {clock}"
            f" at the latest: dayfly attach {run[:12]}"
        )

    def _handed_over(self, value: Callable[[], Any]) -> Any:
        """The caller gets the value now; the teardown goes on behind it."""
        if self.early is None:
            return value()
        box: list[Any] = []

        def once() -> Any:
            if not box:
                box.append(value())
            return box[0]

        self.early(once)
        return once()

    def _follow(self, session: Session, *, with_log: bool = True) -> JobEnd | None:
        """Brings the log home until the job has ended; None where the machine knows of no job."""
        self._with_log = with_log
        with self._log_of(0) as (take, stdout, stderr):
            self.step("run")
            if session.status().state == "absent":
                return None
            self._stop_s = asked_grace_s(self.history) + _ANSWER_S
            with self._lock:
                self._following = True
            self._news()
            if self._stopping.is_set():
                session.stop()
            samples = self._sample_log(0)
            return session.follow(take, stdout, stderr, samples.take, samples.last)

    @contextlib.contextmanager
    def _log_of(self, node: int) -> Iterator[tuple[Sink, int, int]]:
        """Where one machine's log goes, and how much of both streams is here."""
        by_rank = RankDisplay(self.display, node) if node or self._by_rank else None
        folder, shown = ranks.log_folder(self.directory, node), by_rank or self.display
        if by_rank is not None:
            by_rank.go_on(folder)
        with RunLog(folder, shown, self._news) as log:
            take = log.take if self._with_log else _leave_there
            yield take, log.size("stdout"), log.size("stderr")
        if by_rank is not None:
            by_rank.end()

    def _sample_log(self, node: int) -> SampleLog:
        """Keeps what a machine uses, and warns of a GPU that is paid for and idles."""
        history = self.history
        # Where there are several, each warning begins with the machine's number, as lines of its log do.
        shown = RankDisplay(self.display, node) if history.nodes > 1 else self.display
        folder = ranks.log_folder(self.directory, node)
        if providers.load(self.offer.provider).same_computer:
            return SampleLog(folder, shown)

        def warn(idle: Idle) -> None:
            which = {"node": node} if node else {}
            self.record("gpu_idle", gpu=idle.gpu, percent=idle.percent, **which)
            shown.warning(idle.text)

        return SampleLog(folder, shown, IdleWatch(machine_rate_of(history), warn).take)

    def _samples_of(self, node: int) -> tuple[SampleSink, int]:
        samples = self._sample_log(node)
        return samples.take, samples.last

    def stop(self) -> None:
        """Stops the job wherever it is; what has been created is destroyed on the way out."""
        self._stopping.set()
        if self.run_stack is not None:
            self.run_stack.cancel()
        with self._lock:
            session, following = self._session, self._following
        if session is None:
            return
        if following:
            # A machine that does not answer, or does not end the job, is destroyed with it.
            bound = threading.Timer(self._stop_s, session.close)
            bound.daemon = True
            bound.start()
            try:
                session.stop()
                return
            except DayflyError:
                self.display.note("the machine does not end the function; it ends with the machine")
            finally:
                bound.cancel()
        session.close()

    def detach(self) -> None:
        """Has the run left to the keeper, which brings home what comes of it and destroys the machine then.

        Raises:
            KeeperMissing: there is none; nothing has changed.
        """
        assert self.run_stack is not None
        if self.entrust(self.run_stack.workspace, self.history) is None:
            raise KeeperMissing(
                f"run {self.directory.name} cannot be detached: no keeper could be started that would finish it;"
                " `dayfly keeper status` tells more"
            )
        kept = self._deposit is not None and self._deposit.wait(_DEPOSIT_S)
        self._attached_at = (
            "here, or on another computer with this state backend" if kept else "on this computer"
        )
        self._detaching.set()
        assert self._session is not None
        self._session.close()

    def _yielded(self, taken: TakenOver) -> TakenOver:
        """Another computer has the run in hand: its machine stays up, and is that one's to end."""
        assert self.run_stack is not None
        self.run_stack.leave_open()
        hands.note(self.directory, None if self._session is None else taking.hand_of(self._session))
        run = self.directory.name
        return TakenOver(
            f"run {run}: {taken}, and gets its log and its value; `dayfly attach {run[:12]}` takes it back"
        )

    def _let_go(self) -> Detached:
        assert self.run_stack is not None
        self.run_stack.leave_open()
        mine = journal.whose(self.directory)
        self.record("detached", by=journal.myself(), wished=True, **mine)
        run = self.directory.name
        self.display.note(
            f"run {run} goes on by itself, and its machine ends with its function; `dayfly attach {run[:12]}`,"
            f" {self._attached_at}, brings its log and its value"
        )
        return Detached(
            f"run {run} was detached, and goes on; its value comes by: dayfly attach {run[:12]}"
        )

    @property
    def following(self) -> bool:
        """True once the function has started."""
        return self._following

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping.is_set()


def asked_grace_s(history: History) -> float:
    """Seconds that were asked for between asking the function to end and ending it."""
    return float(history.intent.get("spec", {}).get("grace", DEFAULT_GRACE_S))


def _may_run(machine: Machine) -> bool:
    try:
        return providers.load(machine.provider).instance_state(machine.id) == "running"
    except DayflyError:
        return True


def _raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@contextlib.contextmanager
def _teardown_shown(
    attendance: Attendance, run_stack: AbstractContextManager[Machine]
) -> Iterator[Machine]:
    with run_stack as machine:
        try:
            yield machine
        finally:
            if attendance.run_stack is None or attendance.run_stack.needs_closing:
                attendance.step("teardown")
