"""Code of Dayfly that travels by value: how a process makes the calls that Dask gives it, and how it is ended with one.

In its main thread, which alone hears signals, and by the agent that has started it: so that a call is loaded, made, asked to
end and written down as any other. The standard library and that agent alone.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from importlib import import_module
from queue import SimpleQueue
from typing import Any

_STREAMS = {"stdout": 1, "stderr": 2}
# As much as there is of a call on one machine.
_TAIL_BYTES = 16 << 10
# What came of loading something: why it cannot be, or None; and what it is, or the exception.
Loaded = tuple[dict[str, Any] | None, Any]


class MainThreadPoolExecutor(Executor):
    """Makes calls in the main thread, one after the other, whichever worker they come to; Dask knows a thread's by this name."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As of an Executor."""
        future: Future[Any] = Future()
        self._calls.put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """A worker that closes would wait for the call, which goes on."""

    def work(self) -> None:
        """Makes what comes, in the thread that asks for this, until that is interrupted."""
        while True:
            self._make(*self._calls.get())

    @staticmethod
    def _make(future: Future[Any], call: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            made = call()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is for whoever waits
            future.set_exception(error)
        else:
            future.set_result(made)


class Maker:
    """Loads functions and calls them as the agent does.

    Args:
        agent: the name of its package.
        node: which machine of the run this is.
        stopping: whether this process was told to end.
    """

    def __init__(self, agent: str, node: int, stopping: Any) -> None:
        self._node, self._stopping, self._made = node, stopping, _Made()
        self._caller = import_module(f"{agent}.caller").Caller(
            stopping, lambda: ([], ""), self._opened
        )
        # Those of Dask are there after each call.
        self._caller._threads_run_on = lambda names: None

    def _opened(self) -> _Made:
        self._made = _Made()
        return self._made

    def load(self, task: bytes) -> Loaded:
        """A function, from the content that holds it."""
        head, _, pickled = task.partition(b"\n")
        header = json.loads(head)
        self._caller.take_sources(header["sources"])
        self._tell_data(header.get("data"))
        loaded: Loaded = self._caller.load(header["imports"], io.BytesIO(pickled))
        return loaded

    def _tell_data(self, data: Sequence[Mapping[str, Any]] | None) -> None:
        """Says where Data is on this machine, for what makes paths of it while the function or its arguments are loaded."""
        if data:
            os.environ["DAYFLY_DATA"] = json.dumps(data[self._node])

    def outcome(
        self, function: Loaded, arguments: bytes, data: Sequence[Mapping[str, Any]] = ()
    ) -> bytes:
        """What comes of a call: a header and a pickle, as every result has them.

        Args:
            function: as it was loaded.
            arguments: the pickled ones.
            data: where Data among them is, on each machine.

        Raises:
            KeyboardInterrupt: this process was told to end.
        """
        failure, value = function
        if failure is None:
            self._tell_data(data)
            failure, value = self._called(value, arguments)
        self._caller.leave(failure, value)
        return self._made.getvalue()

    def _called(self, function: Any, arguments: bytes) -> tuple[dict[str, Any], Any]:
        began = time.monotonic()
        failure, loaded = self._caller.load((), io.BytesIO(arguments))
        if failure is not None:
            return failure, loaded
        load_s, ends = time.monotonic() - began, [_size(stream) for stream in _STREAMS.values()]
        try:
            outcome, value = self._caller.call(function, *loaded)
            sys.stdout.flush()
            sys.stderr.flush()
        except KeyboardInterrupt as error:
            sys.stderr.write(self._caller._traceback(error))
            raise
        if self._stopping.asked:
            raise KeyboardInterrupt  # The function has not let its own end anything.
        printed = {n: _tail(s, end) for (n, s), end in zip(_STREAMS.items(), ends, strict=True)}
        return {**outcome, **printed, "load_s": load_s}, value


def _size(stream: int) -> int:
    return os.fstat(stream).st_size


def _tail(stream: int, start: int) -> str:
    """The end of what was printed since then; nothing where that does not lie in a file."""
    end = _size(stream)
    start = max(start, end - _TAIL_BYTES)
    return os.pread(stream, end - start, start).decode(errors="replace") if end > start else ""


class _Made(io.BytesIO):
    """A result while it is written."""

    def commit(self) -> None:
        """All of it is here."""

    def discard(self) -> None:
        """It will be written anew."""


def end_group() -> None:
    """Ends this process, and what it has started in its group."""
    import signal

    os.killpg(0, signal.SIGKILL)
