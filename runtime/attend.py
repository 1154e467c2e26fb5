"""Attendance: one client's hold on one attempt of a job, from the stack to the value."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.errors import (
    DayflyError,
    DeadlineReached,
    InstanceLost,
    JobExited,
    JobKilled,
    JobStopped,
    MachineUnfit,
    ResultFailed,
    RunFailed,
)
from dayfly.infra import providers
from dayfly.infra.machine import Machine
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.runtime import agent, outcome, stored
from dayfly.runtime.display import Display
from dayfly.runtime.run_log import RunLog, tail
from dayfly.stacks import gc, journal
from dayfly.stacks.journal import Event, History
from dayfly.stacks.run_stack import RunStack

if TYPE_CHECKING:
    from dayfly.runtime.records import JobEnd, Keys
    from dayfly.runtime.session import Session

# So much of the time until the deadline is kept for bringing the log and what there is of a result back.
_RESERVE_SHARE, _RESERVE_MOST_S = 0.1, 60.0
# Where the pinned host key comes with user_data, the machine shows it only when cloud-init has got so far.
_CONNECT_S, _USER_DATA_S = 60.0, 300.0


class Attendance:
    """One attempt, as its client sees it.

    Args:
        display: where progress is shown.
        lineage: the id of the first attempt, "" in the first.
        plan: makes the Plan of the resources that the program declares; None where a plan was shown long ago.
    """

    def __init__(
        self,
        display: Display,
        *,
        lineage: str = "",
        plan: Callable[[list[dict[str, str]], str], Plan] | None = None,
        joined: Callable[[RunStack], None] = lambda _: None,
    ) -> None:
        self.display = display
        self.lineage = lineage
        self.phase = "queued"
        self.early: Callable[[Callable[[], Any]], None] | None = None
        self.run_stack: RunStack | None = None
        self._plan = plan
        self.joined = joined
        self._session: Session | None = None
        self._following = False
        self._stopping = threading.Event()
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
    def keys(self) -> Keys:
        """The keys of this run."""
        from dayfly.runtime.records import Keys

        key = (self.directory / "hmac_key").read_bytes()
        return Keys(self.directory.name, self.directory / "user_key", key)

    def session(self, machine: Machine) -> Session:
        """The session with the machine; the provider is asked whether it still lives when it cannot be reached."""
        from dayfly.runtime.session import Session

        provider = providers.load(machine.provider)

        return Session(
            machine,
            self.keys,
            connect_timeout_s=_USER_DATA_S if machine.host_key_bootstrap else _CONNECT_S,
            state=lambda: provider.instance_state(machine.id),
        )

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
        return left - min(_RESERVE_MOST_S, left * _RESERVE_SHARE)

    def step(self, name: str, detail: str = "") -> None:
        """Begins a step of the call."""
        self.phase = name
        self.display.step(name, detail)

    def record(self, event: str, **fields: Any) -> None:
        """Journals an event."""
        assert self.run_stack is not None
        self.run_stack.record(event, **fields)

    def seal(self, task: bytes) -> bytes:
        """Seals the task for this run."""
        keys = self.keys
        return agent.seal(keys.hmac_key, keys.run_id, agent.TASK_SEQ, task)

    def connected(self, session: Session) -> None:
        """The session is there; a stop that came meanwhile takes effect."""
        facts = session.facts
        self.record(
            "connected",
            host=facts.hostname,
            platform=facts.platform,
            agent_pid=facts.agent_pid,
            gpus=list(facts.gpus),
            driver=facts.driver,
        )
        with self._lock:
            self._session = session
        if self._stopping.is_set():
            raise JobStopped("stopped before the function was started")

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
            host_key.rotate(session, self.record)
            self._verify_gpus(session)
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
        provider = providers.load(session.machine.provider)
        by = session.arm_deadline(
            self.remaining_s,
            timer=not provider.same_computer,
            power_off=provider.limits.deadline_action == "poweroff",
        )
        self.record("deadline_armed", by=by, action=provider.limits.deadline_action)

    def _verify_gpus(self, session: Session) -> None:
        offer = self.offer
        # Those of this computer are its own, and nothing is paid for them.
        if not offer.gpus or providers.load(offer.provider).same_computer:
            return
        from dayfly.runtime import gpu

        findings = gpu.verify(session, offer, session.machine.id)
        names = [found.name for found in findings.listed]
        self.record("gpus_verified", gpus=names, driver=findings.driver)

    def observe(self, event: Event) -> None:
        """Shows what the journal says of the stack."""
        if event.name == "intent":
            self.step("provision", event.fields["provider"])
        elif event.name == "resources" and self._plan is not None:
            plan = self._plan(event.fields["resources"], event.fields["resources_from"])
            self.display.plan(plan, self.directory.name)
        elif event.name == "machine":
            self.display.done(event.fields["id"])
            if event.fields.get("firewall"):
                self.display.note(f"firewall: {event.fields['firewall']}")
        elif event.name == "progress":
            self.display.note(event.fields["text"])

    def finish(self, session: Session) -> Any:
        """Steps 6 and 7: follows the log to the end, brings the result home, checks it, and lets the machine forget it.

        Returns:
            The function's value.

        Raises:
            Exception: the function's own, or a RunFailed or ResultFailed of ours.
        """
        with self._left_there_in_trouble():
            end = self._follow(session)
            # The hold is for a client that is gone: this one is here, and may take its time over a large result.
            with contextlib.suppress(DeadlineReached):
                self.arm_deadline(session)
            self.record("job_ended", **dataclasses.asdict(end))
            if end.how == "finished":
                self.step("result")
                session.fetch_result(self.directory / stored.RESULT)
                self.record("result_fetched", bytes=(self.directory / stored.RESULT).stat().st_size)
            session.acknowledge()
            self.record("acknowledged")
        if end.how != "finished":
            raise self._failure(end)
        result = stored.unsealed(self.directory)
        self.record("result", **stored.summary(result))
        return self._handed_over(lambda: outcome.unpack(result, run_id=self.directory.name))

    @contextlib.contextmanager
    def _left_there_in_trouble(self) -> Iterator[None]:
        """A full disk or a network that is down here is no reason to destroy what goes on, or waits, there."""
        try:
            yield
        except InstanceLost as lost:
            if self._stopping.is_set():
                raise
            if time.time() >= self.history.deadline - 1:
                raise DeadlineReached(
                    f"run {self.directory.name}: its machine ended at the deadline; raise max_runtime or max_cost"
                ) from lost
            if not self.machine_runs():
                raise
            raise self.left_there(lost) from lost
        except OSError as trouble:
            raise self.left_there(trouble) from trouble

    def machine_runs(self) -> bool:
        """Whether the provider says that the machine lives."""
        machine = self.history.machine
        if machine is None:
            return False
        return providers.load(machine.provider).instance_state(machine.id) == "running"

    def left_there(self, trouble: Exception) -> ResultFailed:
        """Hands the run on: it stays up for `attach`, and a detached `dayfly gc` ends it when its time is over."""
        assert self.run_stack is not None
        until = gc.hold_until(self.history)
        self.run_stack.leave_open()
        self.record("detached", by=journal.myself(), reason=str(trouble))
        gc.start_detached(self.run_stack.workspace, self.run_stack.id, at=until)
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
        return ResultFailed(
            f"run {self.directory.name}: {trouble}. Its machine is still up, and its result is safe there until {clock}"
            f" at the latest: dayfly attach {self.directory.name[:12]}"
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

    def _follow(self, session: Session) -> JobEnd:
        with RunLog(self.directory, self.display) as log:
            self.step("run")
            if session.status().state == "absent":
                raise RunFailed(
                    f"run {self.directory.name}: the function was never started there; call it again"
                )
            with self._lock:
                self._following = True
            if self._stopping.is_set():
                session.stop()
            return session.follow(log.take, log.size("stdout"), log.size("stderr"))

    def _failure(self, end: JobEnd) -> DayflyError:
        run = self.directory.name
        words = tail(self.directory / "stderr.log")
        if end.how == "stopped":
            return JobStopped(f"run {run} was stopped on request")
        if end.how == "deadline":
            return DeadlineReached(
                f"run {run}: the function was ended at the deadline; raise max_runtime or max_cost{words}"
            )
        if end.how == "killed":
            why = (
                "the kernel's out-of-memory killer ended it: ask for more memory"
                if end.out_of_memory
                else f"signal {end.signal} ended it"
            )
            return JobKilled(
                f"run {run}: the function's process was killed: {why}{words}",
                end.signal,
                end.out_of_memory,
            )
        return JobExited(
            f"run {run}: the function's process exited with code {end.code} and left no result{words}",
            end.code,
        )

    def stop(self) -> None:
        """Stops the job wherever it is; what has been created is destroyed on the way out."""
        self._stopping.set()
        if self.run_stack is not None:
            self.run_stack.cancel()
        with self._lock:
            session, following = self._session, self._following
        if session is None:
            return
        with contextlib.suppress(DayflyError):
            if following:
                session.stop()
            else:
                session.close()

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping.is_set()


@contextlib.contextmanager
def _teardown_shown(
    attendance: Attendance, run_stack: AbstractContextManager[Machine]
) -> Iterator[Machine]:
    with run_stack as machine:
        try:
            yield machine
        finally:
            attendance.step("teardown")
