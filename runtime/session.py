"""Session: the connection to a Machine and the agent on it, with every way to use it that a run needs."""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from dayfly.errors import (
    ConnectFailed,
    DataFailed,
    DayflyError,
    EnvironmentFailed,
    Forged,
    HostKeyMismatch,
    InstanceLost,
    ResultFailed,
    RunBusy,
    RunFailed,
    SpecError,
    TakenOver,
)
from dayfly.infra.found import LOST, State
from dayfly.infra.machine import Machine
from dayfly.runtime.agent import files as agent_files
from dayfly.runtime.agent import frames as agent_frames
from dayfly.runtime.content import Content
from dayfly.runtime.download import Download
from dayfly.runtime.parts import Parts
from dayfly.runtime.records import (
    Facts,
    Glance,
    Gpu,
    GpuFindings,
    JobEnd,
    JobStatus,
    Keys,
    Restored,
    Task,
)
from dayfly.runtime.ssh.connection import Disconnected, NobodyListens, Refused
from dayfly.runtime.ssh.link import AgentRefused, Link
from dayfly.runtime.ssh.passage import Channel
from dayfly.runtime.ssh.tunnel import Tunnel
from dayfly.runtime.upload import INLINE_BYTES, Upload

if TYPE_CHECKING:
    from dayfly.runtime.environment import Recipe
    from dayfly.runtime.warm_line import WarmLine

_T = TypeVar("_T")
_ATTEMPT_S = 20.0
# A machine that is gone swallows what is sent to it; the provider should be asked before a minute is over.
_RECONNECT_S = 10.0
# Most links are gone for less than this, and who waits for one wants to see more as soon as it is back.
_BRIEF_S, _SOON_S = 60.0, 0.2
# The first failures are those of any dropped connection; asking the provider costs a request.
_ASK_AFTER, _ASK_AFTER_S, _ASK_EVERY_S = 4, 5.0, 10.0
# How often whoever follows a job looks after what else must not end meanwhile.
_MEANWHILE_S = 60.0
# A machine may answer before it has its keys; going on for a minute would look like an attack.
_REFUSALS = 3

Sink = Callable[[Literal["stdout", "stderr"], int, bytes], None]
SampleSink = Callable[[int, bytes], None]


class Session:
    """The run's agent on its machine, through every dropped connection until `give_up_s` of silence.

    Lifecycle: constructing does nothing, entering connects and starts the agent, leaving closes; `close` may come twice
    and from another thread. The job on the machine does not notice any of it.

    Attributes:
        machine: where it is, and the host key that is pinned now.
        others: the sessions with the other machines of its stack, for a Fleet.
        deciding: the machine whose end is the job's, for a Fleet.
        renewed: called with every link that is made in the place of a broken one, before anything else uses it; what it
            raises comes to whoever wanted the link.
    """

    def __init__(
        self,
        machine: Machine,
        keys: Keys,
        *,
        connect_timeout_s: float = 60,
        give_up_s: float = 600,
        state: Callable[[], State] = lambda: "unknown",
        meanwhile: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is connected yet.

        Args:
            machine: where to.
            keys: the run's own.
            connect_timeout_s: patience with a machine that is still booting.
            give_up_s: patience with a connection that is lost.
            state: asks the provider for the machine's state; asked while it cannot be reached.
            meanwhile: called when the job begins to be followed, and once a minute from then on, also while the machine
                is out of reach; must not raise.
            clock: a monotonic clock.
        """
        self._state, self._clock = state, clock
        self._meanwhile, self._meanwhile_at = meanwhile, -math.inf
        self.machine, self._keys = machine, keys
        self._connect_timeout_s, self._give_up_s = connect_timeout_s, give_up_s
        self._link: Link | None = None
        self._linking = threading.Lock()
        self._closed = threading.Event()
        self._heard, self._failures = clock(), 0
        self._asked, self._dead = -_ASK_EVERY_S, ""
        self.others: tuple[Session, ...] = ()
        self.deciding: int | None = None
        self.renewed: Callable[[Link], None] = lambda _: None

    # -- lifetime

    def __enter__(self) -> Session:
        """Connect, waiting for a machine that is still booting, and for one that has not applied its user_data yet.

        Raises:
            HostKeyMismatch: the machine showed another host key than the pinned one.
            ConnectFailed: it did not answer within `connect_timeout_s`, or has no Python for the agent.
        """
        until = self._clock() + self._connect_timeout_s
        refusals = 0
        backoff = wait_random_exponential(multiplier=0.02, max=3)
        again = Retrying(
            retry=retry_if_exception_type(_not_yet(self.machine)),
            wait=lambda state: (
                min(5.0, self._connect_timeout_s / 4) if refusals else backoff(state)
            ),
            stop=lambda _: self._clock() >= until or refusals >= _REFUSALS,
            sleep=self._sleep,
            reraise=True,
        )

        def dial() -> Link:
            nonlocal refusals
            try:
                return self._dial(min(_ATTEMPT_S, max(1.0, until - self._clock())))
            except Refused:
                refusals += 1
                raise

        try:
            self._link = again(dial)
        except Refused as error:
            raise ConnectFailed(f"{error}, {refusals} times") from error
        except Disconnected as error:
            raise ConnectFailed(
                f"{self.machine.host}:{self.machine.port} could not be reached for "
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
        keys = self._keys
        link = Link(self.machine, keys.user_key, keys.run_id, keys.hmac_key, self._clock)
        # A machine that was spoken to before has the agent.
        link.open(timeout_s, bring=self._link is None)
        return link

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed.is_set()

    # -- reconnecting

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise InstanceLost("the session is closed")

    def _linked(self, patience_s: float = -1) -> Link:
        """Give a link that works, making a new one where the last broke.

        Args:
            patience_s: with another thread that is making one; as long as it takes where it is negative.

        Raises:
            Disconnected: it could not be made, or not in time.
        """
        if not self._linking.acquire(timeout=patience_s):
            raise Disconnected("the connection is still being made anew")
        try:
            if self._link is None or self._link.broken:
                if self._link is not None:
                    self._link.close()
                link = self._dial(_RECONNECT_S)
                try:
                    self.renewed(link)
                except BaseException:
                    link.close()
                    raise
                if self._closed.is_set():
                    link.close()
                    raise InstanceLost("the session is closed")
                self._link = link
            return self._link
        finally:
            self._linking.release()

    def _progress(self) -> None:
        """Something was heard: patience and the pauses between tries begin anew."""
        self._heard, self._failures = self._clock(), 0

    @property
    def _silent_s(self) -> float:
        """For how long nothing was heard, pings included: a job may well say nothing for hours."""
        link = self._link
        return self._clock() - max(self._heard, 0.0 if link is None else link.heard)

    def _pause(self, state: RetryCallState) -> float:
        self._failures += 1
        most_s = _SOON_S if self._silent_s < _BRIEF_S else 5.0
        ceiling_s = min(most_s, 0.05 * 2.0 ** min(self._failures, 10))
        # Jitter, so that the many runs of one client do not all come back at the same instant.
        return random.uniform(ceiling_s / 2, ceiling_s)  # noqa: S311 - nothing secret hangs on it

    def _see_to_meanwhile(self) -> None:
        if self._clock() >= self._meanwhile_at:
            self._meanwhile()
            self._meanwhile_at = self._clock() + _MEANWHILE_S

    def _lost(self, state: RetryCallState) -> bool:
        self._see_to_meanwhile()
        if self._silent_s > self._give_up_s:
            return True
        if self._failures < _ASK_AFTER and self._silent_s < _ASK_AFTER_S:
            return False
        if self._clock() < self._asked + _ASK_EVERY_S:
            return bool(self._dead)  # Another thread may have asked just now.
        self._asked = self._clock()
        says: State = "unknown"
        # The provider may be out of reach too; that proves nothing.
        with contextlib.suppress(DayflyError):
            says = self._state()
        self._dead = says if says in LOST else ""
        return bool(self._dead)

    def _persist(
        self, act: Callable[[Link], _T], within_s: float = math.inf, *, only_dead: bool = False
    ) -> _T:
        """Do `act`, and do it again on a new link each time that one breaks; `act` must bear being repeated.

        Args:
            act: what is to be done.
            within_s: not for longer than this.
            only_dead: silence alone is no end of it; that the provider says the machine is gone is.
        """
        until = self._clock() + within_s
        again = Retrying(
            retry=retry_if_exception_type(Disconnected),
            wait=self._pause,
            stop=lambda state: (
                self._clock() >= until
                or (self._lost(state) and (bool(self._dead) or not only_dead))
            ),
            sleep=self._sleep,
            reraise=True,
        )

        def once() -> _T:
            return act(self._linked())

        self._progress()  # Silence counts from now: before, nobody asked.
        try:
            value = again(once)
        except Disconnected as error:
            machine = self.machine
            says = f", and the provider says that it is {self._dead}" if self._dead else ""
            raise InstanceLost(
                f"{machine.id} at {machine.host}:{machine.port} could not be reached for {self._silent_s:.0f} s and is"
                f" given up{says}; the last try failed with: {error}",
                self._dead,
            ) from error
        self._progress()
        return value

    def _ask(
        self, head: dict[str, Any], body: bytes = b"", within_s: float = math.inf
    ) -> dict[str, Any]:
        with _refusals():
            return self._persist(lambda link: link.ask(head, body), within_s)

    @property
    def keys(self) -> Keys:
        """The run's own."""
        return self._keys

    # -- the host key

    @property
    def host_key(self) -> str:
        """The host key that the machine has shown on the connection in use."""
        return "" if self._link is None else self._link.host_key

    def offer_host_key(self, within_s: float) -> str:
        """Have the machine make a host key of its own, beside the bootstrap key, and give its public half."""
        return self._host_key_step("", within_s)

    def install_host_key(self, offered: str, within_s: float) -> None:
        """Have the machine put the key that it has offered in the place of the bootstrap key; from now on it may show either."""
        self.machine = replace(self.machine, host_key_offered=offered)
        self._host_key_step(offered, within_s)

    def _host_key_step(self, offered: str, within_s: float) -> str:
        step = {"op": "host_key", "offered": offered, "pinned": self.machine.host_keys[0]}
        return str(self._ask({**step, "seconds": within_s}, within_s=within_s)["host_key"])

    def repin(self, host_key: str, within_s: float) -> None:
        """Go on over a new connection on which the machine shows `host_key`, and accept no other from now on.

        Raises:
            HostKeyMismatch: it goes on showing another one.
            ConnectFailed: it cannot be reached.
        """
        pinned = replace(
            self.machine, host_key=host_key, host_key_bootstrap=False, host_key_offered=""
        )
        # Its server may take a moment to read its keys anew, and shows the former one until then.
        fresh = Session(
            replace(pinned, host_key_bootstrap=True),
            self._keys,
            connect_timeout_s=within_s,
            clock=self._clock,
        )
        fresh.__enter__()
        with self._linking:
            former, self._link, self.machine = self._link, fresh._link, pinned
        if former is not None:
            former.close()
        if self._closed.is_set():
            self.close()

    # -- what a run needs

    @cached_property
    def facts(self) -> Facts:
        """What the agent found on the machine; asked for at the first use."""
        answer = self._ask({"op": "facts"})
        lists = {name: tuple(answer[name]) for name in ("pythons", "gpus", "devices")}
        return Facts(**{name: lists.get(name, answer[name]) for name in Facts.__dataclass_fields__})

    def gpu_findings(self, timeout_s: float) -> GpuFindings:
        """Have the GPUs listed and tried out, each within `timeout_s`; what is broken is told, not raised."""
        answer = self._ask({"op": "gpus", "seconds": timeout_s})
        gpus = {
            name: tuple(Gpu(**found) for found in answer[name]) for name in ("listed", "usable")
        }
        names = GpuFindings.__dataclass_fields__
        return GpuFindings(**{name: gpus.get(name, answer[name]) for name in names})

    def put(self, content: bytes | Parts | Path, digest: str = "") -> str:
        """Bring content to the machine unless it is there; a transfer that broke off is resumed.

        Args:
            content: a file, or the bytes themselves, which nobody may change meanwhile.
            digest: its SHA-256, where it is known: that spares reading the content, if the machine has it.

        Returns:
            Its SHA-256, which is its name on the machine.
        """
        with _refusals(), Content(content, digest) as opened:
            upload = Upload(opened)
            self._persist(lambda link: upload.send(link, lambda _: self._progress()))
            return opened.digest()

    def put_many(self, files: Mapping[str, Path]) -> None:
        """Bring many files' content to the machine, the small ones together; what is there already does not travel.

        Args:
            files: by the SHA-256 of what is in them, which is its name on the machine.

        Raises:
            DataFailed: a file is gone, or is another than its SHA-256 says.
        """
        from dayfly.runtime import cargo

        cargo.send(self, cargo.blobs_of(files))

    def make_tree(self, key: str, listing: str) -> str:
        """Have a folder made of content that is there, from the digest of its list, and give its path; once for a run."""
        return str(self._ask({"op": "data_tree", "key": key, "list": listing})["path"])

    def build_environment(
        self, recipe: Recipe, on_output: Callable[[str], None], uv: Callable[[], Path] | None = None
    ) -> str:
        """Make the environment on the machine, or find it made.

        Args:
            recipe: what should be installed.
            on_output: takes each line of the resolver as it comes.
            uv: gives the binary for the machine's platform, where the environment has to be made; this computer's own
                unless given.

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
            "constraints": recipe.constraints,
            "variables": dict(recipe.variables),
            "checks": list(recipe.checks),
            "torch_builds": dict(recipe.torch_builds),
            "jax_extra": recipe.jax_extra,
            "wheels": [],
            "uv": "",
        }
        ready = self._ask(request)["python"]
        if ready:
            return str(ready)
        request["wheels"] = [(wheel.name, self.put(wheel)) for wheel in recipe.wheels]
        request["uv"] = self.put((uv or _own_uv)())
        return str(self._followed(request, on_output)["python"])

    def install_system_packages(
        self, names: Sequence[str], on_output: Callable[[str], None]
    ) -> None:
        """Have the machine's own package manager install what it has not, as root.

        Args:
            names: as it knows them.
            on_output: takes each line of it as it comes.

        Raises:
            EnvironmentFailed: with its own words.
        """
        self._followed({"op": "system_packages", "names": list(names)}, on_output)

    def _followed(
        self, request: dict[str, Any], on_output: Callable[[str], None]
    ) -> dict[str, Any]:
        """Give the last answer to what takes long, and hand over the lines that come before it."""

        def act(link: Link) -> dict[str, Any]:
            answer: dict[str, Any] = {}
            for answer, _ in link.stream(request):
                self._progress()
                if "line" in answer:
                    on_output(answer["line"])
            return answer

        with _refusals():
            return self._persist(act)

    def arm_deadline(
        self, seconds: float, *, timer: bool = False, power_off: bool = False, run: str = ""
    ) -> str:
        """Have the machine end every process of the run after `seconds`, whoever is connected; replaces an earlier one.

        Args:
            seconds: from now.
            timer: by a timer of its systemd, where it has one: false where the machine is somebody's own.
            power_off: it switches itself off afterwards.
            run: another run whose machine this one is on; "" for this one.

        Returns:
            Who watches it there: "systemd", or "process" where that could not be had.
        """
        request = {"op": "deadline", "seconds": seconds, "timer": timer, "power_off": power_off}
        return str(self._ask({**request, "run": run})["by"])

    def clear(self, run: str, *, folder: bool, deadline: bool) -> None:
        """Have what the ended job of a run has left running ended, for the next one to have the machine for itself.

        Args:
            run: this one or one that was on the machine before.
            folder: delete what it has left on the disk, too.
            deadline: forget its deadline: the machine goes on for others.

        Raises:
            RunFailed: something there does not end.
        """
        self._ask({"op": "clear", "run": run, "folder": folder, "deadline": deadline})

    def restore_checkpoints(
        self,
        url: str,
        python: str,
        *,
        secrets: Mapping[str, str],
        variables: Mapping[str, str],
        claim: bool,
        progress: Callable[[int, int], None] = lambda _have, _all: None,
    ) -> Restored:
        """Have the machine bring what a bucket has of earlier attempts, for a task that is `restored`.

        Args:
            url: of the bucket's folder.
            python: of the environment that has what reads there, as in the task.
            secrets: credentials, as environment variables.
            variables: environment variables that are not secret.
            claim: this run is the one that writes there from now on.
            progress: told how many bytes of how many have come.

        Raises:
            DataFailed: it cannot be read or written from there, or is none of ours.
        """
        request = {
            "op": "bucket",
            "url": url,
            "python": python,
            "secrets": dict(secrets),
            "variables": dict(variables),
            "claim": claim,
        }

        def act(link: Link) -> dict[str, Any]:
            answer: dict[str, Any] = {}
            for answer, _ in link.stream(request):
                self._progress()
                if "have" in answer:
                    progress(int(answer["have"]), int(answer["total"]))
            return answer

        with _refusals():
            told = self._persist(act)
        return Restored(int(told["files"]), int(told["bytes"]), str(told["run"]))

    def start(self, task: Task, *more: Task) -> None:
        """Start the job, detached; a job that this run has started before is left as it is.

        Args:
            task: of this machine.
            more: of the others, for a Fleet.
        """
        request: dict[str, Any] = {
            "op": "start",
            "python": task.python,
            "pickler": self.put(task.pickler),
            "secrets": task.secrets,
            "variables": task.variables,
            "max_runtime_s": task.max_runtime_s,
            "grace_s": task.grace_s,
            "hold_s": task.hold_s,
            "ends_rest": task.ends_rest,
            "gpu_floor_percent": task.gpu_floor_percent,
            "gpu_window_s": task.gpu_window_s,
            "checkpoints": task.checkpoints,
            "restored": task.restored,
            "bucket": task.bucket,
            "bucket_every_s": task.bucket_every_s,
            "task": "",
        }
        body = b""
        if len(task.sealed) <= INLINE_BYTES:
            body = bytes(task.sealed)
        elif self.own_status().state == "absent":
            request["task"] = self.put(task.sealed)
        else:
            return
        self._ask(request, body)

    def status(self) -> JobStatus:
        """Ask where the job stands."""
        return self.own_status()

    def own_status(self) -> JobStatus:
        """Ask where that of this machine alone stands."""
        return _job_status(self._ask({"op": "stat"}))

    def listens(self, port: int) -> bool:
        """Whether somebody listens on a port of the machine's loopback."""
        return self.reaches("127.0.0.1", port)

    def reaches(self, host: str, port: int) -> bool:
        """Whether the machine can connect to a port of another one."""
        try:
            self._persist(
                lambda link: link.tunnel(port, _RECONNECT_S, host), within_s=_RECONNECT_S
            ).close()
        except (NobodyListens, InstanceLost):
            # A network that swallows what is sent to it says nothing at all.
            return False
        return True

    def look(self, since: int = -1, tail: int = 0) -> Glance:
        """Look once at a job that somebody else may be following.

        Args:
            since: number of the last sample that is known already.
            tail: so many of the last bytes of each log.

        Raises:
            InstanceLost: the machine was out of reach for `give_up_s`, or knows no such job.
        """

        def act(link: Link) -> Glance:
            answer: dict[str, Any] = {}
            found: dict[str, tuple[int, bytes]] = {}
            for answer, data in link.stream({"op": "look", "samples": since, "tail": tail}):
                if "stream" in answer:
                    found[answer["stream"]] = answer["offset"], data
            last, samples = found.pop("samples", (since, b""))
            tails = {name: data for name, (_, data) in found.items()}
            return Glance(_job_status(answer), samples, last, tails)

        with _refusals():
            return self._persist(act)

    def follow(
        self,
        sink: Sink,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        samples: SampleSink | None = None,
        since: int = -1,
    ) -> JobEnd:
        """Hand over what the job writes until it has ended, without gap or repeat, however often the connection drops.

        Args:
            sink: takes a stream's name, the offset of the bytes in it, and the bytes.
            stdout_offset: how much of stdout is known already.
            stderr_offset: the same of stderr.
            samples: takes whole lines of samples of the machine, and the number of the last of them.
            since: number of the last sample that is known already.

        Raises:
            InstanceLost: the machine was out of reach for `give_up_s`, or knows no such job.
            TakenOver: another home has taken the run in hand.
        """
        offsets = {"stdout": stdout_offset, "stderr": stderr_offset, "samples": since}
        return self._read_log(self._own, offsets, sink, samples)

    def watch(self, sink: Sink) -> JobEnd:
        """As `follow`, from the beginning, whoever has the run in hand: nothing of that changes.

        Raises:
            InstanceLost: as there.
        """
        offsets = {"stdout": 0, "stderr": 0, "samples": -1}
        return self._read_log({"onlooker": True}, offsets, sink, None)

    def _read_log(
        self,
        who: Mapping[str, Any],
        offsets: dict[str, int],
        sink: Sink,
        samples: SampleSink | None,
    ) -> JobEnd:
        def act(link: Link) -> JobEnd:
            answer: dict[str, Any] = {}
            self._see_to_meanwhile()
            logs = {name: offsets[name] for name in ("stdout", "stderr")}
            request = {"op": "attach", "offsets": logs, "samples": offsets["samples"], **who}
            for answer, data in link.stream(request, wake_s=_MEANWHILE_S):
                self._see_to_meanwhile()
                if not answer:
                    continue
                self._progress()
                if answer.get("stream") == "samples":
                    if samples is not None:
                        samples(answer["offset"], data)
                    offsets["samples"] = answer["offset"]
                elif "stream" in answer:
                    sink(answer["stream"], answer["offset"], data)
                    offsets[answer["stream"]] = answer["offset"] + len(data)
            end = _job_end(answer["end"])
            assert end is not None
            return end

        with _refusals():
            return self._persist(act)

    def forward(
        self, port: int, local_port: int = 0, note: Callable[[str], None] = lambda _: None
    ) -> Tunnel:
        """A port of this computer that leads to one of the machine's loopback, while it is entered.

        Args:
            port: of the machine.
            local_port: of this computer; 0 for any that is free.
            note: told once of each reason why a connection could not be made.

        Raises:
            SpecError: no such port can be.
        """
        for number, least in ((port, 1), (local_port, 0)):
            if not least <= number <= 65535:
                raise SpecError(f"port {number}: ports are from {least} to 65535")
        return Tunnel(lambda: self.channel_to(port), local_port, note)

    def channel_to(self, port: int) -> Channel:
        """Open a channel to a port of the machine's loopback, for so long as a link that has just broken may take.

        Raises:
            NobodyListens: there, at least now.
            ConnectFailed: the machine's SSH server forbids it.
            Disconnected: the machine is out of reach.
            InstanceLost: the session is closed.
        """
        again = Retrying(
            retry=retry_if_exception_type(Disconnected),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            stop=stop_after_delay(_RECONNECT_S),
            sleep=self._sleep,
            reraise=True,
        )
        # Whoever follows the job, and asks the provider whether the machine lives, must not wait behind all who would connect.
        return again(lambda: self._linked(_RECONNECT_S).tunnel(port, _RECONNECT_S))

    def ports(self, ports: Sequence[int]) -> tuple[list[int], list[int]]:
        """Which ports of the machine's loopback are taken, and which are open to other machines.

        Args:
            ports: those that are asked about.
        """
        answer = self._ask({"op": "ports", "ports": list(ports)})
        return list(answer["taken"]), list(answer["open"])

    def carry(self, line: WarmLine) -> None:
        """Carry a warm run's calls there and their results back until it has ended, over every new link all that is open.

        For how long a machine may be out of reach is for whoever follows its job to say, and that one closes the session:
        of two that give up side by side the first would decide what becomes of the run.

        Raises:
            InstanceLost: the provider says that the machine is gone, it knows no such job, or the session was closed.
            Forged: a result was not sealed for its call.
        """

        def act(link: Link) -> None:
            self._see_to_meanwhile()
            number = link.subscribe(line)
            try:
                line.open(link, number)
                while not line.has_ended(within_s=1.0):
                    self._see_to_meanwhile()
            finally:
                link.unsubscribe(number)
            if link.ask({"op": "stat"})["state"] == "running":
                raise Disconnected("the machine has hung up")

        with _refusals():
            self._persist(act, only_dead=True)

    def fetch_result(self, path: Path, call: int = 0) -> None:
        """Bring the sealed result to `path`, which appears only when all of it is there and authentic.

        Args:
            path: where to.
            call: the number of a warm call; 0 is the run itself.

        Raises:
            Forged: what arrived was not sealed for this run; it is deleted.
            ResultFailed: the job left no result.
        """
        aside = path.with_name(path.name + ".part")
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT, 0o600)
        with _refusals(), os.fdopen(descriptor, "r+b") as file:
            # What an earlier client had fetched may have been torn by its end.
            file.truncate(0)
            download = Download(file.fileno(), call)
            self._persist(lambda link: download.fetch(link, self._progress))
            try:
                seq = agent_frames.call_result_seq(call)
                download.check(self._keys.hmac_key, self._keys.run_id, seq)
            except agent_frames.FrameError as error:
                aside.unlink()
                raise Forged(f"the result is not authentic: {error}") from error
            # That of a call is read at once; until it is acknowledged the machine has it, too.
            if not call:
                os.fsync(file.fileno())
        aside.rename(path)
        if not call:
            agent_files.sync_folder(str(path.parent))

    def transfer(self, act: Callable[[Link, Callable[[], None]], None]) -> None:
        """Do what takes many frames, and do it again on a new link each time that one breaks.

        Args:
            act: goes on where it was; calls what it is given whenever something has arrived.

        Raises:
            InstanceLost: the machine was out of reach for `give_up_s`.
        """

        def heard() -> None:
            self._progress()
            self._see_to_meanwhile()

        with _refusals():
            self._persist(lambda link: act(link, heard))

    def acknowledge(self) -> None:
        """Tell the machine that the result is safe here, and that it may forget it."""
        self._ask({"op": "ack", **self._own})

    def take(self, named: str, client: Mapping[str, Any], *, force: bool) -> None:
        """Take the run in hand for the home of this session, from whichever has it: that one's clients are refused from now on.

        Args:
            named: how people know this home.
            client: this process, as the journal describes it.
            force: also from a client that follows the run right now.

        Raises:
            RunBusy: one does.
            TakenOver: another home has fetched the result, and destroys the machine.
        """
        self._ask(
            {"op": "take", **self._own, "named": named, "client": dict(client), "force": force}
        )

    def hand(self) -> dict[str, Any] | None:
        """Ask who has taken the run in hand: its home, how that is named, and its client; None where nobody has."""
        found = self._ask({"op": "stat"}, within_s=_RECONNECT_S).get("hand")
        # The function may write where the agent does.
        return found if isinstance(found, dict) else None

    @property
    def _own(self) -> dict[str, str]:
        """What tells the machine whose client this is."""
        return {"home": self._keys.home} if self._keys.home else {}

    def stop(self) -> JobEnd:
        """End the job and every process of its tree: asked first, ended after its grace.

        Returns:
            How it ended; a job that had ended by itself keeps its own end.
        """
        end = _job_end(self._ask({"op": "stop"})["end"])
        assert end is not None
        return end


def _not_yet(machine: Machine) -> tuple[type[Exception], ...]:
    """What may be over at the next try: a bootstrap key is shown only when cloud-init has put it in place."""
    return (Disconnected, HostKeyMismatch) if machine.host_key_bootstrap else (Disconnected,)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn the agent's "no" into the error that its kind calls for."""
    try:
        yield
    except AgentRefused as refusal:
        kinds: dict[str, type[DayflyError]] = {
            "environment": EnvironmentFailed,
            "result": ResultFailed,
            "absent": InstanceLost,
            "data": DataFailed,
            "taken": TakenOver,
            "busy": RunBusy,
        }
        error = kinds.get(refusal.kind, RunFailed)
        raise error(str(refusal)) from refusal


def _job_end(answer: dict[str, Any] | None) -> JobEnd | None:
    if answer is None:
        return None
    # A supervisor of an earlier version, which was there before this client was, knew of less.
    known = JobEnd.__dataclass_fields__.keys() & answer.keys()
    return JobEnd(**{name: answer[name] for name in known})


def _job_status(answer: dict[str, Any]) -> JobStatus:
    answer["end"] = _job_end(answer["end"])
    return JobStatus(**{name: answer[name] for name in JobStatus.__dataclass_fields__})


def _own_uv() -> Path:
    from uv import find_uv_bin

    return Path(find_uv_bin())
