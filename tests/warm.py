"""A warm run on a real OpenSSH server on loopback, without a stack: what its calls are tried on."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dayfly.errors import JobStopped
from dayfly.runtime import outcome, payload
from dayfly.runtime.agent import frames
from dayfly.runtime.records import JobEnd, Task
from dayfly.runtime.session import Session
from dayfly.runtime.warm_call import WarmCall
from dayfly.runtime.warm_calls import WarmCalls
from dayfly.runtime.warm_function import WarmFunction
from dayfly.runtime.warm_map import WarmMap
from tests.sshd import Server, sshd

T = TypeVar("T")
WAIT_S = 60.0


def within(act: Callable[[], T]) -> T:
    """What comes of an act, in a thread of its own: one that waits for ever fails the test, and no more."""
    come: Future[T] = Future()

    def work() -> None:
        try:
            come.set_result(act())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to see it
            come.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return come.result(WAIT_S)


def settings(**other: Any) -> dict[str, Any]:
    """How calls are to be made."""
    usual = {"slots": 2, "by": "cores", "isolation": "fork", "grace_s": 1.0}
    return {**usual, "linger_s": 60.0, "idle_s": 0.0, **other}


def task(server: Server, folder: Path, how: dict[str, Any], **more: Any) -> Task:
    """The task of a warm run, for the interpreter of the tests themselves, without its environment, unless `more` says another."""
    keys, packed = server.keys, payload.warm_task(abs, how)
    usual: dict[str, Any] = {"python": os.path.realpath(sys.executable), "grace_s": 3.0}
    return Task(
        ends_rest=True,
        sealed=packed.task.sealed(keys.hmac_key, keys.run_id, frames.TASK_SEQ),
        pickler=payload.pickler_zip(folder),
        **{**usual, **more},
    )


@dataclass
class Warm:
    """One warm run that has begun.

    Attributes:
        server: its machine.
        session: with it.
        folder: the run's own on this computer.
        lost: what has broken the line for good.
    """

    server: Server
    session: Session
    folder: Path
    lost: list[Exception]

    def __post_init__(self) -> None:
        self._by_function: dict[int, WarmCalls[Any]] = {}

    @property
    def job(self) -> Path:
        """The job's folder on the machine."""
        return self.server.home / f"job-{self.server.keys.run_id}"

    def calls(self, function: Callable[..., Any]) -> WarmCalls[Any]:
        """The one line of the run; it has one function, so that the first stays."""
        if not self._by_function:
            made: WarmCalls[Any] = WarmCalls(
                WarmFunction(function), self.session, self.folder, ready := threading.Event()
            )
            made.begin(self.lost.append)
            assert ready.wait(WAIT_S), self.lost
            self._by_function[0] = made
        self._by_function[0]._function = WarmFunction(function)
        return self._by_function[0]

    def submit(self, function: Callable[..., Any], *args: Any, **how: Any) -> WarmCall[Any]:
        """One call, in a process of its own."""
        return self.calls(function).submit_all([(args, {})], **how)[0]

    def call(self, function: Callable[..., Any], *args: Any, **how: Any) -> Any:
        """Its value."""
        return self.submit(function, *args, **how).result(WAIT_S)

    def map(self, function: Callable[..., Any], items: Iterable[Any], **how: Any) -> list[Any]:
        """The values of a map."""
        usual = {"total": None, "ordered": True}
        calls = ((item,) for item in items)
        made: WarmMap[Any] = WarmMap(self.calls(function), calls, **{**usual, **how})
        return list(made.results())

    def end(self) -> JobEnd:
        """Close, and tell how the run has ended on the machine."""
        for made in self._by_function.values():
            made.finish()
        return self.session.follow(lambda *_: None)

    def forget(self) -> None:
        """Nothing more comes."""
        for made in self._by_function.values():
            made.end(JobStopped("the test is over"))

    def left(self) -> dict[int, Any]:
        """What the ended run has left: values or exceptions, by call."""
        self.session.fetch_result(self.folder / "result.sealed")
        keys = self.server.keys
        sealed = (self.folder / "result.sealed").read_bytes()
        result = frames.unseal(keys.hmac_key, keys.run_id, frames.RESULT_SEQ, sealed)
        found: dict[int, Any] = outcome.unpack(result, run_id=keys.run_id)
        return found

    def log(self, stream: str = "stdout") -> str:
        """The run's log on the machine."""
        return (self.job / f"{stream}.log").read_text()


@contextlib.contextmanager
def warm(folder: Path, port: int | None = None, **how: Any) -> Iterator[Warm]:
    """A warm run on a server of its own."""
    more: dict[str, Any] = {"variables": how.pop("variables", {})}
    with (
        sshd(folder / "machine", is_new=False) as server,
        begun(server, folder, port, how, more) as run,
    ):
        yield run


@contextlib.contextmanager
def begun(
    server: Server,
    folder: Path,
    port: int | None,
    how: dict[str, Any],
    more: dict[str, Any] | None = None,
) -> Iterator[Warm]:
    """A warm run on a server that is there, reached through `port`."""
    machine = server.machine if port is None else server.through(port)
    (folder / "run").mkdir()
    with Session(machine, server.keys) as session:
        session.start(task(server, folder, settings(**how), **(more or {})))
        run = Warm(server, session, folder / "run", [])
        try:
            yield run
        finally:
            run.forget()
