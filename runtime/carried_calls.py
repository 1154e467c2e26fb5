"""Code of Dayfly that travels by value: which process has begun which call of a map, and what came of it.

Where a machine's way to the scheduler breaks, Dask's worker there closes and the scheduler has another make its calls; the
call that is under way goes on all the same, in its process, which brings what came of it as soon as there is a way again,
and has a worker again then. So each call has one process that has begun it, and whoever else is to make it waits for that
one. The standard library and distributed alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from dayfly.runtime.carried_making import end_group

# A call's key in Dask is this and its name.
PREFIX = "call-"
# Between two looks at what another has to tell first.
LOOK_S = 0.1
# For so long a process whose way to the scheduler has broken may take to be there again: as a session does for its machine.
_REJOIN_S = 600.0
# Between two looks at whether Dask has handed on what was made here, or at whether a call has ended.
_PAUSE_S = 0.005
# In this time whoever has stopped a call hears that it is over.
_ANSWER_S = 0.05
# After this time Dask has a result or has handed it on.
_SETTLED_S = 5.0
# What is larger is lost with its worker.
_BROUGHT_BYTES = 1 << 30
# So many calls that nobody waits for any more may be remembered.
_REMEMBERED = 1000


class AtWork:
    """What a process has begun and made, and what of that the scheduler may not know.

    Attributes:
        process: its name, which its workers have, too.
        security: of each of its connections.
        maker: makes its calls.
        loaded: the digest of the function that it has, and what came of loading it; None before the first one.
    """

    def __init__(
        self, process: str, scheduler: str, security: Any, maker: Any, grace_s: float
    ) -> None:
        """`grace_s` is what a call has to end by itself when it is told to."""
        self.process, self.maker = process, maker
        self.loaded: tuple[str, Any] | None = None
        self.security, self._scheduler, self._grace_s = security, scheduler, grace_s
        # The thread that makes the calls, and the one that talks to the scheduler.
        self._changing = threading.Lock()
        # Whether a call was stopped, and this process ends with it; and whether that call is over.
        self._stopping, self._over = False, threading.Event()
        self._ending: Any = None
        self._running = ""
        # What was made last, while Dask may not have it yet; and when.
        self._last: tuple[str, bytes, float] | None = None
        # What was made for a worker that has closed.
        self._left: dict[str, bytes] = {}

    def begin(self, call: str) -> None:
        """It is claimed now, or waited for."""
        with self._changing:
            self._running, self._last = call, None

    def end(self, call: str, found: bytes | None) -> None:
        """It is over; with what came of it, where it was made here."""
        with self._changing:
            self._running = ""
            self._last = None if found is None else (call, found, time.monotonic())

    def make_room(self, worker: Any) -> NoReturn:
        """Ends this process, for a new one to take its place, as soon as Dask has handed on what was made here.

        What has been loaded here cannot be undone: another version of it would share its modules, and with them its globals.

        Raises:
            ConnectionError: the worker's way to the scheduler has broken: the next worker is asked once more.
        """
        while True:
            # First, since a worker that closes may have let go of what nobody else has.
            if worker.status.name != "running":
                raise ConnectionError("the way to the scheduler has broken")
            if not _holds(worker.data):
                end_group()
            time.sleep(_PAUSE_S)

    async def stop(self, call: str, data: Mapping[Any, Any]) -> None:
        """Ends this process if it makes that call, and no other: SIGTERM to all that it has started, its grace, SIGKILL.

        It returns when the call is over, or its grace is; the process ends a moment later.

        Args:
            call: its name.
            data: what its worker has of other calls; Dask hands that on first.
        """
        import asyncio

        if self._told_to_end(call):
            await self._call_over()
            self._ending = asyncio.create_task(self._end(data))

    def _told_to_end(self, call: str) -> bool:
        """Whether that is the call that is made, which is told to end; nothing else is begun here."""
        with self._changing:
            if self._running != call:
                return False
            self._stopping = True
            # The main thread hears it, which makes the call.
            os.killpg(0, signal.SIGTERM)
            return True

    async def _call_over(self) -> None:
        import asyncio

        last = time.monotonic() + self._grace_s
        while not self._over.is_set() and time.monotonic() < last:
            await asyncio.sleep(_PAUSE_S)

    async def _end(self, data: Mapping[Any, Any]) -> None:
        import asyncio

        await asyncio.sleep(_ANSWER_S)
        while _holds(data):
            await asyncio.sleep(_PAUSE_S)
        end_group()

    def interrupted(self) -> None:
        """The main thread makes no more calls: it waits for whoever has stopped one, or ends the process with the whole run."""
        self._over.set()
        if not self._stopping:
            end_group()
        threading.Event().wait()

    def leave(self, data: Mapping[Any, Any]) -> None:
        """A worker of this process has closed: what it has is for the scheduler, and for the next one."""
        with self._changing:
            for key, value in data.items():
                if str(key).startswith(PREFIX) and isinstance(value, bytes):
                    self._left[str(key)[len(PREFIX) :]] = value

    async def join(self) -> None:
        """Tells the scheduler that this process is there, and what it has of calls, until nothing is under way any more."""
        import asyncio

        from distributed.core import rpc

        arguments = self.security.get_connection_args("worker")
        while True:
            with contextlib.suppress(OSError):
                async with rpc(self._scheduler, connection_args=arguments) as scheduler:
                    pause = LOOK_S
                    while await self._told_running(scheduler):
                        await asyncio.sleep(pause)
                        pause = min(1.0, 1.5 * pause)
                    return
            await asyncio.sleep(LOOK_S)

    async def _told_running(self, scheduler: Any) -> bool:
        """Whether a call is under way, of which the scheduler knows; as it knows what came of those that are over."""
        with self._changing:
            if self._last is not None:
                self._left[self._last[0]], self._last = self._last[1], None
            running, left = self._running, dict(self._left)
        told = {call: found for call, found in left.items() if len(found) <= _BROUGHT_BYTES}
        wanted = await scheduler.dayfly_join(process=self.process, running=running, results=told)
        if running and not wanted and self._told_to_end(running):
            # Stopped meanwhile. What was made before is with the scheduler.
            await self._call_over()
            end_group()
        with self._changing:
            for call in left:
                del self._left[call]
        return bool(running)

    async def forget(self) -> None:
        """Lets go of what Dask has, or has handed on."""
        import asyncio

        while True:
            await asyncio.sleep(_SETTLED_S)
            with self._changing:
                last = self._last
                if last is not None and time.monotonic() - last[2] > _SETTLED_S:
                    self._last = None


def _holds(data: Mapping[Any, Any]) -> bool:
    """Whether a worker has results that Dask has not handed on."""
    # Copied at once: other threads change it.
    return any(str(key).startswith(PREFIX) for key in list(data))


class Begun:
    """The scheduler's knowledge of which process has begun which call, of which each is begun once.

    Its coroutines answer what processes ask.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        # By call: the process, and which of its tries to make it.
        self._by: dict[str, tuple[str, str]] = {}
        self._results: dict[str, bytes] = {}
        self._ends: dict[str, str] = {}
        # Those that nobody may begin, which the scheduler may not have heard from whoever had them made.
        self._stopped: set[str] = set()
        # By process that is waited for: since when.
        self._away: dict[str, float] = {}

    async def claim(self, call: str, process: str, attempt: str) -> bool:
        """Whether this attempt may begin a call: Dask has a call made again whose worker has gone."""
        self._away.pop(process, None)
        if len(self._by) > _REMEMBERED + 2 * len(self._scheduler.tasks):
            self._wanted()
        if not self._is_wanted(call):
            return False
        return self._by.setdefault(call, (process, attempt)) == (process, attempt)

    async def stop(self, call: str) -> str:
        """From now on nobody begins a call; gives the address of the worker whose process has begun it, "" where none has."""
        if len(self._stopped) > _REMEMBERED:
            self._wanted()
        self._stopped.add(call)
        process, _ = self._by.get(call, ("", ""))
        return str(self._scheduler.aliases.get(process, ""))

    async def told(self, call: str) -> dict[str, Any]:
        """What came of a call that a process has begun: its result, or how it ended without one; nothing yet, while it runs."""
        if call in self._results:
            return {"result": self._results[call]}
        if call in self._ends:
            return {"end": self._ends[call]}
        if call not in self._by or not self._is_wanted(call):
            return {"end": "lost"}
        process = self._by[call][0]
        if process in self._scheduler.aliases:
            return {}
        away = time.monotonic() - self._away.setdefault(process, time.monotonic())
        return {"end": "lost"} if away > _REJOIN_S else {}

    async def join(self, process: str, running: str, results: Mapping[str, bytes]) -> bool:
        """A process is there, for the first time or still or again; gives whether what it runs is wanted.

        Args:
            process: its name: its machine, its slot, its id.
            running: the call that it makes.
            results: what it has made and may not have handed on.
        """
        slot = process.rpartition("-")[0]
        await self._without_former(f"{slot}-")
        self._away.pop(process, None)
        wanted = self._wanted()
        self._results |= {call: found for call, found in results.items() if call in wanted}
        for call in wanted & self._by.keys():
            holder = self._by[call][0]
            if holder.rpartition("-")[0] != slot or call in self._results:
                continue
            if holder != process:
                self._ends[call] = "died"
            elif call != running:
                self._ends[call] = "lost"
        return self._is_wanted(running)

    def _is_wanted(self, call: str) -> bool:
        return call not in self._stopped and PREFIX + call in self._scheduler.tasks

    def _wanted(self) -> set[str]:
        """The calls that somebody waits for. What came of others is forgotten."""
        keys = (str(key) for key in self._scheduler.tasks)
        wanted = {key[len(PREFIX) :] for key in keys if key.startswith(PREFIX)}
        self._by = {call: by for call, by in self._by.items() if call in wanted}
        self._ends = {call: end for call, end in self._ends.items() if call in wanted}
        self._results = {c: found for c, found in self._results.items() if c in wanted}
        self._stopped &= wanted
        return wanted

    async def _without_former(self, prefix: str) -> None:
        """Has the worker forgotten that a slot had before: its connection may seem to be whole, and its address is used again."""
        import asyncio

        scheduler = self._scheduler
        while former := [w for w in scheduler.workers.values() if str(w.name).startswith(prefix)]:
            for each in former:
                stream = scheduler.stream_comms.get(each.address)
                if stream is not None and stream.comm is not None:
                    stream.comm.abort()
            await asyncio.sleep(0.01)
