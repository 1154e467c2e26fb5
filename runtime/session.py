"""Session: the connection to a Machine and the agent on it, with every way to use it that a run needs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from dayfly.errors import (
    ConnectFailed,
    EnvironmentFailed,
    Forged,
    InstanceLost,
    ResultFailed,
    RunFailed,
)
from dayfly.infra.machine import Machine
from dayfly.runtime import agent
from dayfly.runtime.records import Facts, Gpu, GpuFindings, JobEnd, JobStatus, Keys, Task
from dayfly.runtime.ssh.connection import Disconnected, Refused
from dayfly.runtime.ssh.link import AgentRefused, Link

if TYPE_CHECKING:
    from dayfly.runtime.environment import Recipe

_T = TypeVar("_T")
_ATTEMPT_S = 20.0
_ASK_AFTER = 4
_INLINE_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 20
_CHUNKS_AHEAD = 4
# A machine may answer before it has its keys; going on for a minute would look like an attack.
_REFUSALS = 3

Sink = Callable[[Literal["stdout", "stderr"], int, bytes], None]


class Session:
    """The run's agent on its machine, through every dropped connection until `give_up_s` of silence.

    Lifecycle: constructing does nothing, entering connects and starts the agent, leaving closes; `close` may come twice
    and from another thread. The job on the machine does not notice any of it.
    """

    def __init__(
        self,
        machine: Machine,
        keys: Keys,
        *,
        connect_timeout_s: float = 60,
        give_up_s: float = 600,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing is connected yet.

        Args:
            machine: where to.
            keys: the run's own.
            connect_timeout_s: patience with a machine that is still booting.
            give_up_s: patience with a connection that is lost.
            is_gone: asks the provider whether the machine has ended; asked while it cannot be reached.
        """
        self._is_gone = is_gone
        self._machine, self._keys = machine, keys
        self._connect_timeout_s, self._give_up_s = connect_timeout_s, give_up_s
        self._link: Link | None = None
        self._linking = threading.Lock()
        self._closed = threading.Event()
        self._heard, self._failures = time.monotonic(), 0

    # -- lifetime

    def __enter__(self) -> Session:
        """Connect, waiting for a machine that is still booting.

        Raises:
            HostKeyMismatch: the machine showed another host key than the pinned one.
            ConnectFailed: it did not answer within `connect_timeout_s`, or has no Python for the agent.
        """
        until = time.monotonic() + self._connect_timeout_s
        refusals = 0
        backoff = wait_random_exponential(multiplier=0.02, max=3)
        again = Retrying(
            retry=retry_if_exception_type(Disconnected),
            wait=lambda state: (
                min(5.0, self._connect_timeout_s / 4) if refusals else backoff(state)
            ),
            stop=lambda _: time.monotonic() >= until or refusals >= _REFUSALS,
            sleep=self._sleep,
            reraise=True,
        )

        def dial() -> Link:
            nonlocal refusals
            try:
                return self._dial(min(_ATTEMPT_S, max(1.0, until - time.monotonic())))
            except Refused:
                refusals += 1
                raise

        try:
            self._link = again(dial)
        except Refused as error:
            raise ConnectFailed(f"{error}, {refusals} times") from error
        except Disconnected as error:
            raise ConnectFailed(
                f"{self._machine.host}:{self._machine.port} could not be reached for "
                f"{self._connect_timeout_s:g} s. Last: {error}"
            ) from error
        self._progress()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the job, if one runs, goes on."""
        self._closed.set()
        if self._link is not None:
            self._link.close()

    def _dial(self, timeout_s: float) -> Link:
        if self._closed.is_set():
            raise InstanceLost("the session is closed")
        link = Link(self._machine, self._keys.user_key, self._keys.run_id, self._keys.hmac_key)
        link.open(timeout_s)
        return link

    # -- reconnecting

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise InstanceLost("the session is closed")

    def _linked(self) -> Link:
        """Give a link that works, making a new one where the last broke."""
        with self._linking:
            if self._link is None or self._link.broken:
                if self._link is not None:
                    self._link.close()
                self._link = self._dial(_ATTEMPT_S)
            return self._link

    def _progress(self) -> None:
        """Something was heard: patience and the pauses between tries begin anew."""
        self._heard, self._failures = time.monotonic(), 0

    def _pause(self, state: RetryCallState) -> float:
        self._failures += 1
        ceiling_s = min(5.0, 0.05 * 2.0 ** min(self._failures, 10))
        # Jitter, so that the many runs of one client do not all come back at the same instant.
        return random.uniform(ceiling_s / 2, ceiling_s)  # noqa: S311 - nothing secret hangs on it

    def _lost(self, state: RetryCallState) -> bool:
        if time.monotonic() - self._heard > self._give_up_s:
            return True
        # The first failures are those of any dropped connection; asking the provider costs a request.
        return self._failures >= _ASK_AFTER and self._is_gone()

    def _persist(self, act: Callable[[Link], _T]) -> _T:
        """Do `act`, and do it again on a new link each time that one breaks; `act` must bear being repeated."""
        again = Retrying(
            retry=retry_if_exception_type(Disconnected),
            wait=self._pause,
            stop=self._lost,
            sleep=self._sleep,
            reraise=True,
        )

        def once() -> _T:
            return act(self._linked())

        self._progress()  # Silence counts from now: before, nobody asked.
        try:
            value = again(once)
        except Disconnected as error:
            raise InstanceLost(
                f"{self._machine.id} at {self._machine.host}:{self._machine.port} could not be reached for "
                f"{time.monotonic() - self._heard:.0f} s and is given up; the last try failed with: {error}"
            ) from error
        self._progress()
        return value

    def _ask(self, head: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        with _refusals():
            return self._persist(lambda link: link.ask(head, body))

    # -- what a run needs

    @cached_property
    def facts(self) -> Facts:
        """What the agent found on the machine; asked for at the first use."""
        answer = self._ask({"op": "facts"})
        lists = {name: tuple(answer[name]) for name in ("pythons", "gpus")}
        return Facts(**{name: lists.get(name, answer[name]) for name in Facts.__dataclass_fields__})

    def gpu_findings(self, timeout_s: float) -> GpuFindings:
        """Have the GPUs listed and tried out, each within `timeout_s`; what is broken is told, not raised."""
        answer = self._ask({"op": "gpus", "seconds": timeout_s})
        gpus = {name: tuple(Gpu(**found) for found in answer[name]) for name in ("listed", "usable")}
        names = GpuFindings.__dataclass_fields__
        return GpuFindings(**{name: gpus.get(name, answer[name]) for name in names})

    def put(self, content: bytes | Path) -> str:
        """Bring content to the machine unless it is there; a transfer that broke off is resumed.

        Returns:
            Its SHA-256, which is its name on the machine.
        """
        with _refusals(), _opened(content) as (digest, size, read):
            self._persist(lambda link: _put(link, digest, size, read, self._progress))
        return digest

    def build_environment(self, recipe: Recipe, on_output: Callable[[str], None]) -> str:
        """Make the environment on the machine, or find it made.

        Args:
            recipe: what should be installed.
            on_output: takes each line of the resolver as it comes.

        Returns:
            The path of the environment's Python.

        Raises:
            EnvironmentFailed: with the resolver's own words.
        """
        if recipe.empty:
            found = self._ask({"op": "interpreter", "minor": recipe.python})["python"]
            if found:
                return str(found)
        request: dict[str, Any] = {
            "op": "environment",
            "digest": recipe.digest,
            "python": recipe.python,
            "requirements": recipe.requirements,
            "variables": dict(recipe.variables),
            "wheels": [],
            "uv": "",
        }
        ready = self._ask(request)["python"]
        if ready:
            return str(ready)
        request["wheels"] = [(wheel.name, self.put(wheel)) for wheel in recipe.wheels]
        request["uv"] = self.put(recipe.uv or _own_uv())
        return self._build(request, on_output)

    def _build(self, request: dict[str, Any], on_output: Callable[[str], None]) -> str:
        def act(link: Link) -> str:
            answer: dict[str, Any] = {}
            for answer, _ in link.stream(request):
                self._progress()
                if "line" in answer:
                    on_output(answer["line"])
            return str(answer["python"])

        with _refusals():
            return self._persist(act)

    def arm_deadline(self, seconds: float) -> None:
        """Have the machine end every process of the run after `seconds`, whoever is connected; replaces an earlier one."""
        self._ask({"op": "deadline", "seconds": seconds})

    def start(self, task: Task) -> None:
        """Start the job, detached; a job that this run has started before is left as it is."""
        request: dict[str, Any] = {
            "op": "start",
            "python": task.python,
            "pickler": self.put(task.pickler),
            "secrets": task.secrets,
            "variables": task.variables,
            "max_runtime_s": task.max_runtime_s,
            "grace_s": task.grace_s,
            "hold_s": task.hold_s,
            "task": "",
        }
        body = task.sealed
        if len(body) > _INLINE_BYTES:
            if self.status().state != "absent":
                return
            request["task"], body = self.put(body), b""
        self._ask(request, body)

    def status(self) -> JobStatus:
        """Ask where the job stands."""
        answer = self._ask({"op": "stat"})
        answer["end"] = _job_end(answer["end"])
        return JobStatus(**{name: answer[name] for name in JobStatus.__dataclass_fields__})

    def follow(self, sink: Sink, stdout_offset: int = 0, stderr_offset: int = 0) -> JobEnd:
        """Hand over what the job writes until it has ended, without gap or repeat, however often the connection drops.

        Args:
            sink: takes a stream's name, the offset of the bytes in it, and the bytes.
            stdout_offset: how much of stdout is known already.
            stderr_offset: the same of stderr.

        Raises:
            InstanceLost: the machine was out of reach for `give_up_s`, or knows no such job.
        """
        offsets = {"stdout": stdout_offset, "stderr": stderr_offset}

        def act(link: Link) -> JobEnd:
            answer: dict[str, Any] = {}
            for answer, data in link.stream({"op": "attach", "offsets": dict(offsets)}):
                self._progress()
                if "stream" in answer:
                    sink(answer["stream"], answer["offset"], data)
                    offsets[answer["stream"]] = answer["offset"] + len(data)
            end = _job_end(answer["end"])
            assert end is not None
            return end

        with _refusals():
            return self._persist(act)

    def fetch_result(self, path: Path) -> None:
        """Bring the sealed result to `path`, which appears only when all of it is there and authentic.

        Raises:
            Forged: what arrived was not sealed for this run; it is deleted.
            ResultFailed: the job left no result.
        """
        aside = path.with_name(path.name + ".part")
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT, 0o600)
        with _refusals(), os.fdopen(descriptor, "r+b") as file:
            # What an earlier client had fetched may have been torn by its end.
            file.truncate(0)
            self._persist(lambda link: self._fetch(link, file.fileno()))
            file.flush()
            os.fsync(file.fileno())
        try:
            agent.check_sealed_file(
                self._keys.hmac_key, self._keys.run_id, agent.RESULT_SEQ, str(aside)
            )
        except agent.FrameError as error:
            aside.unlink()
            raise Forged(f"the result is not authentic: {error}") from error
        aside.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _fetch(self, link: Link, descriptor: int) -> None:
        have = os.fstat(descriptor).st_size
        for answer, data in link.stream({"op": "get", "offset": have}):
            self._progress()
            if data:
                agent.write_at(descriptor, answer["offset"], data)

    def acknowledge(self) -> None:
        """Tell the machine that the result is safe here, and that it may forget it."""
        self._ask({"op": "ack"})

    def stop(self) -> JobEnd:
        """End the job and every process of its tree: asked first, ended after its grace.

        Returns:
            How it ended; a job that had ended by itself keeps its own end.
        """
        end = _job_end(self._ask({"op": "stop"})["end"])
        assert end is not None
        return end


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn the agent's "no" into the error that its kind calls for."""
    try:
        yield
    except AgentRefused as refusal:
        kinds = {"environment": EnvironmentFailed, "result": ResultFailed, "absent": InstanceLost}
        error = kinds.get(refusal.kind, RunFailed)
        raise error(str(refusal)) from refusal


def _job_end(answer: dict[str, Any] | None) -> JobEnd | None:
    if answer is None:
        return None
    return JobEnd(**{name: answer[name] for name in JobEnd.__dataclass_fields__})


def _own_uv() -> Path:
    from uv import find_uv_bin

    return Path(find_uv_bin())


@contextlib.contextmanager
def _opened(content: bytes | Path) -> Iterator[tuple[str, int, Callable[[int], bytes]]]:
    """Give digest, size, and a function that reads a chunk at an offset."""
    if isinstance(content, bytes):
        view = content
        yield (
            hashlib.sha256(view).hexdigest(),
            len(view),
            lambda offset: view[offset : offset + _CHUNK_BYTES],
        )
        return
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        number = file.fileno()
        yield (
            digest,
            os.fstat(number).st_size,
            lambda offset: os.pread(number, _CHUNK_BYTES, offset),
        )


def _put(
    link: Link,
    digest: str,
    size: int,
    read: Callable[[int], bytes],
    acknowledged: Callable[[], None],
) -> None:
    """Send what the machine has not; small content goes at once, without asking."""
    request = {"op": "put", "digest": digest, "size": size}
    if size <= _INLINE_BYTES:
        link.ask({**request, "offset": 0}, read(0))
        return
    have = link.ask(request)["have"]
    answers: deque[Callable[[], dict[str, Any]]] = deque()
    while have < size or answers:
        # Some on their way at once, so that a long line is never empty.
        if have < size and len(answers) < _CHUNKS_AHEAD:
            data = read(have)
            answers.append(link.send({**request, "offset": have}, data))
            have += len(data)
        else:
            answers.popleft()()
            acknowledged()
