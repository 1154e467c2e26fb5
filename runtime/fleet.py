"""Fleet: the sessions with all machines of one run, used as one session: what runs on them begins, fails and ends as one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dayfly.errors import DayflyError, InstanceLost
from dayfly.infra.machine import Machine
from dayfly.infra.spec import DEFAULT_GRACE_S
from dayfly.runtime import ranks, stored
from dayfly.runtime.agent import frames
from dayfly.runtime.records import JobEnd, JobStatus, Keys, Task
from dayfly.runtime.session import SampleSink, Session, Sink

_T = TypeVar("_T")
# For so long, behind its grace, a machine that is told to end its part may take; it ends with the machine in any case.
_ANSWER_S = 20.0

# Where a machine's log goes, and how much of both streams is here already.
Log = Callable[[int], AbstractContextManager[tuple[Sink, int, int]]]
# Where a machine's samples go, and the number of the last of them that is here already.
Samples = Callable[[int], tuple[SampleSink, int]]


def _let_fall(_number: int, _lines: bytes) -> None:
    """Samples that nobody keeps."""


class _Ended(NamedTuple):
    """How one machine's job has ended, and whether that ends the others."""

    end: JobEnd
    failed: bool


def side_by_side(acts: Sequence[Callable[[], _T]]) -> list[_T]:
    """Does all of them at once, and waits for all.

    Raises:
        Exception: that of the first in the row that has failed.
    """
    if not acts:
        return []
    with ThreadPoolExecutor(len(acts), "dayfly-fleet") as pool:
        begun = [pool.submit(act) for act in acts]
    return [each.result() for each in begun]


class Fleet(Session):
    """The session with the first machine, which also does on the others what has to be done on each.

    By rank, each machine runs the function: the first that fails ends the others, and its end is the job's; where none
    fails it is that of the first rank. Else the first machine runs the job and the others serve it: its end is theirs,
    and it ends with the first of them that does.

    Lifecycle: as of each of them.

    Attributes:
        deciding: the machine whose end is the job's, once that is known; None where it is the first one's by itself.
    """

    def __init__(
        self,
        machine: Machine,
        keys: Keys,
        others: Sequence[Session],
        *,
        by_rank: bool,
        directory: Path,
        log: Log,
        samples: Samples = lambda _: (_let_fall, -1),
        stay: Callable[[Session], None],
        grace_s: float = DEFAULT_GRACE_S,
        **more: Any,
    ) -> None:
        """Nothing is connected yet.

        Args:
            machine: the first.
            keys: the run's own.
            others: sessions with the other machines, in their order.
            by_rank: whether each runs the function.
            directory: the run's own on this computer.
            log: where the log of each of the others goes.
            samples: where the samples of each of the others go.
            stay: has a machine whose rank has ended wait for the others.
            grace_s: between asking a part to end and ending it.
            more: as of a Session.
        """
        super().__init__(machine, keys, **more)
        self.others = tuple(others)
        self._by_rank, self._directory = by_rank, directory
        self._log, self._samples, self._stay, self._grace_s = log, samples, stay, grace_s
        self._ends: dict[int, _Ended] = {}
        self._resting = threading.Event()

    # -- what is done on each

    def __enter__(self) -> Fleet:
        try:
            side_by_side([super().__enter__, *(other.__enter__ for other in self.others)])
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the connections; what runs goes on."""
        super().close()
        for other in self.others:
            other.close()

    def arm_deadline(
        self, seconds: float, *, timer: bool = False, power_off: bool = False, run: str = ""
    ) -> str:
        """On each; who watches it is the weakest that there is."""
        first = super().arm_deadline
        by = side_by_side(
            [
                partial(arm, seconds, timer=timer, power_off=power_off, run=run)
                for arm in (first, *(other.arm_deadline for other in self.others))
            ]
        )
        return "process" if "process" in by else by[0]

    def start(self, task: Task, *more: Task) -> None:
        """The first machine's task, and those of the others; what has been started before is left as it is."""
        super().start(task)
        side_by_side(
            [partial(other.start, own) for other, own in zip(self.others, more, strict=True)]
        )

    def acknowledge(self) -> None:
        """Each may forget what it has left; the first says whether the run is still in this home's hand."""
        super().acknowledge()
        side_by_side([other.acknowledge for other in self.others])

    def stop(self) -> JobEnd:
        """End all of it."""
        ends = side_by_side([super().stop, *(other.stop for other in self.others)])
        return ends[self.deciding or 0]

    # -- the job

    def status(self) -> JobStatus:
        """Where all of it stands; a rank that has failed has ended the others before this tells."""
        own = self.own_status()
        if not self._by_rank:
            return own
        found = [own, *side_by_side([other.own_status for other in self.others])]
        if any(status.state == "absent" for status in found):
            return dataclasses.replace(own, state="absent", end=None)
        for rank, status in enumerate(found):
            if status.end is not None:
                self._note(rank, status.end)
        if any(ended.failed for ended in self._ends.values()):
            for rank, end in self._stopped():
                self._note(rank, end)
        if len(self._ends) < len(found):
            return dataclasses.replace(own, state="running", end=None)
        return dataclasses.replace(own, state="ended", end=self._decide())

    def follow(
        self,
        sink: Sink,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        samples: SampleSink | None = None,
        since: int = -1,
    ) -> JobEnd:
        """Hand over what the first machine's job writes, and what the others' do to their logs, until all have ended."""
        own = partial(super().follow, sink, stdout_offset, stderr_offset, samples, since)
        follows = [own, *(partial(self._follow, other) for other in self.others)]
        with ThreadPoolExecutor(len(follows), "dayfly-rank") as pool:
            waiting = {
                pool.submit(self._see_out, node, follow): node
                for node, follow in enumerate(follows)
            }
            self._await(waiting)
        return self._decide()

    def _follow(self, other: Session) -> JobEnd:
        samples, since = self._samples(other.machine.node)
        with self._log(other.machine.node) as (sink, stdout, stderr):
            return other.follow(sink, stdout, stderr, samples, since)

    def _see_out(self, node: int, follow: Callable[[], JobEnd]) -> None:
        self._note(node, follow())

    def _await(self, waiting: dict[Future[None], int]) -> None:
        """Until all have ended.

        Raises:
            Exception: one cannot be followed any more; all that is followed is let go of, and what lives goes on.
        """
        trouble: BaseException | None = None
        for done in as_completed(waiting):
            node, error = waiting[done], done.exception()
            if error is None:
                if not self._by_rank or self._ends[node].failed:
                    self._end_rest()
            elif trouble is None and not self._resting.is_set():
                trouble = error
                self._part_with(node, error)
        if trouble is not None:
            raise trouble

    def _part_with(self, node: int, error: BaseException) -> None:
        """A machine that is gone ends the others; one that is out of reach leaves all of them to whoever comes next."""
        if isinstance(error, DayflyError) and error.args:
            error.args = (f"{self._named(node)}: {error.args[0]}", *error.args[1:])
        if isinstance(error, InstanceLost) and error.state:
            self._end_rest()
        else:
            self.close()

    def _named(self, node: int) -> str:
        return f"rank {node}" if self._by_rank else f"machine {node}"

    def _note(self, node: int, end: JobEnd) -> None:
        """One has ended: what it has left is looked at at once, since it may be why the others have to end."""
        if node in self._ends:
            return
        failed = True
        if self._by_rank:
            self._stay(self._each[node])
            failed = end.how != "finished" or not self._gave_value(node)
        self._ends[node] = _Ended(end, failed)

    @property
    def _each(self) -> tuple[Session, ...]:
        return (self, *self.others)

    def _gave_value(self, rank: int) -> bool:
        """Whether a rank's function has returned; its result is here then, authentic, and nothing of it is unpickled."""
        folder = ranks.folder(self._directory, rank)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / stored.RESULT
        if not file.exists():
            fetch = self.others[rank - 1].fetch_result if rank else super().fetch_result
            fetch(file)
        with file.open("rb") as sealed:
            sealed.seek(frames.HEADER_BYTES)
            return bool(json.loads(sealed.readline())["outcome"] == "value")

    # -- as one

    def _end_rest(self) -> None:
        """Has the others end, without waiting for it: whoever follows them sees that."""
        if self._resting.is_set():
            return
        self._resting.set()
        threading.Thread(target=self._stopped, name="dayfly-fail-as-one", daemon=True).start()
        # One that does not answer must not keep what is known from being told.
        bound = threading.Timer(self._grace_s + _ANSWER_S, self._let_go)
        bound.daemon = True
        bound.start()

    def _let_go(self) -> None:
        for node in set(range(len(self._each))) - set(self._ends):
            (self.others[node - 1].close if node else super().close)()

    def _stopped(self) -> list[tuple[int, JobEnd]]:
        """Ends those that have not ended; gives how they did, as far as they have answered."""
        left = [node for node in range(len(self._each)) if node not in self._ends]

        def stop(node: int) -> list[tuple[int, JobEnd]]:
            with contextlib.suppress(DayflyError):
                act = self.others[node - 1].stop if node else partial(Session.stop, self)
                return [(node, act())]
            return []

        return [found for each in side_by_side([partial(stop, n) for n in left]) for found in each]

    def _decide(self) -> JobEnd:
        """The end of the job: of those that have failed by themselves that of the first, by the machines' clocks."""
        failed = {n: e.end for n, e in self._ends.items() if e.failed and e.end.how != "stopped"}
        if self._by_rank:
            failed = failed or {n: e.end for n, e in self._ends.items() if e.failed}
            self.deciding = min(failed, key=lambda node: failed[node].ended, default=0)
            return self._ends[self.deciding].end
        own, lost = self._ends.get(0), {node: end for node, end in failed.items() if node}
        if own is not None and (not lost or own.end.how != "stopped"):
            return own.end
        # One that was stopped tells of all where the first has not answered any more.
        lost = lost or {node: ended.end for node, ended in self._ends.items()}
        self.deciding = min(lost, key=lambda node: lost[node].ended)
        end = lost[self.deciding]
        # What served the first machine has no value to give.
        return dataclasses.replace(end, how="exited") if end.how == "finished" else end

    def fetch_result(self, path: Path, call: int = 0) -> None:
        """Bring the result that is the job's; those of the other ranks are let go of."""
        if call or not self._by_rank or self.deciding is None:
            return super().fetch_result(path, call)
        (ranks.folder(self._directory, self.deciding) / stored.RESULT).replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for rank in range(len(self._each)):
            (ranks.folder(self._directory, rank) / stored.RESULT).unlink(missing_ok=True)
        return None
