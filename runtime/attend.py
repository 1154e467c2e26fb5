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
    JobStopped,
    ResultFailed,
    RunFailed,
)
from dayfly.infra import providers
from dayfly.infra.machine import Machine
from dayfly.infra.plan import Plan
from dayfly.runtime import agent, ending, entrust, outcome, stored
from dayfly.runtime.display import Display
from dayfly.runtime.run_log import RunLog
from dayfly.stacks import journal
from dayfly.stacks.journal import Event, History
from dayfly.stacks.run_stack import RunStack
from dayfly.stacks.standing import hold_until
from dayfly.stacks.workspace import Workspace

if TYPE_CHECKING:
    from dayfly.runtime.records import JobEnd, Keys
    from dayfly.runtime.session import Session

# So much of the time until the deadline is kept for bringing the log and what there is of a result back.
_RESERVE_SHARE, _RESERVE_MOST_S = 0.1, 60.0


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
        self._keeperless = False
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

    def session(self, machine: Machine, *, connect_timeout_s: float = 60.0) -> Session:
        """The session with the machine; the provider is asked whether it still lives when it cannot be reached."""
        from dayfly.runtime.session import Session

        provider = providers.load(machine.provider)

        def is_gone() -> bool:
            return provider.instance_state(machine.id) in ("terminated", "preempted")

        return Session(machine, self.keys, connect_timeout_s=connect_timeout_s, is_gone=is_gone)

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

    def entrust(self, workspace: Workspace, *runs: History) -> dict[str, Any] | None:
        """Gives runs into the keeper's care, with what only this process has for them; it is started where it is not.

        Returns:
            The keeper; None where there is none, which is said: it is no reason not to go on.
        """
        if self._keeperless:
            return None
        try:
            return entrust.entrust(workspace, runs)
        except (DayflyError, OSError) as missing:
            self._keeperless = True
            self.display.warning(
                f"the keeper is not there ({missing}): were this process killed, its machine would live until the next"
                " dayfly command, or its deadline"
            )
            return None

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

    def observe(self, event: Event) -> None:
        """Shows what the journal says of the stack; what it intends is given into the keeper's care first."""
        if event.name == "intent":
            assert self.run_stack is not None
            self.entrust(self.run_stack.workspace, self.history)
            self.step("provision", event.fields["provider"])
        elif event.name == "resources" and self._plan is not None:
            plan = self._plan(event.fields["resources"], event.fields["resources_from"])
            self.display.plan(plan, self.directory.name)
        elif event.name == "machine":
            self.display.done(event.fields["id"])
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
                session.arm_deadline(self.remaining_s)
            result = self._bring_home(session, end)
            session.acknowledge()
            self.record("acknowledged")
        if result is None:
            raise ending.failure(self.directory, end)
        return self._handed_over(lambda: outcome.unpack(result, run_id=self.directory.name))

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
        self._bring_home(session, end)
        self.record("held", with_log=with_log)
        return end

    def _bring_home(self, session: Session, end: JobEnd) -> bytes | None:
        """The result, checked and on this computer's disk; None where the job has left none."""
        self.record("job_ended", **dataclasses.asdict(end))
        if end.how != "finished":
            return None
        self.step("result")
        session.fetch_result(self.directory / stored.RESULT)
        self.record("result_fetched", bytes=(self.directory / stored.RESULT).stat().st_size)
        result = stored.unsealed(self.directory)
        self.record("result", **stored.summary(result))
        return result

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
        """Hands the run on: it stays up for `attach`, and the keeper ends it when its time is over."""
        assert self.run_stack is not None
        until = hold_until(self.history)
        self.run_stack.leave_open()
        self.record("detached", by=journal.myself(), reason=str(trouble))
        self.entrust(self.run_stack.workspace, self.history)
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
