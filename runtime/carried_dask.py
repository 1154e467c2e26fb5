"""Code of Dayfly that travels by value to the machines of a map: a Dask scheduler, its workers, and a call on them.

Dayfly is not installed there, so what stands here uses the standard library, distributed and the agent that has started it
alone, and what travels as it does. Calls and results pass through Dask as bytes: what a result holds is unpickled by the client alone.

All of it listens on loopback.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from importlib import import_module
from pathlib import Path
from typing import Any

from dayfly.runtime.carried_calls import LOOK_S, PREFIX, AtWork, Begun
from dayfly.runtime.carried_making import MainThreadPoolExecutor, Maker
from dayfly.runtime.carried_processes import FAILURES, Processes, forked, up_mark

# The run's key, which came over a pipe.
KEY_VARIABLE = "DAYFLY_DASK_KEY"
_START_S = 180.0
# Where everybody listens, on whichever machine.
HOST = "127.0.0.1"
# Of each process that loads this: its connections and functions, by what they are for.
_kept: dict[Any, Any] = {}


# -- processes of a machine


def work(cluster: Mapping[str, Any], node: int) -> None:
    """The workers of one machine, each a process for one call at a time; one that ends is made anew."""
    # Once for all of them, which are copies of this process.
    _import_distributed()
    act = functools.partial(_worker, cluster, node)
    slots, grace_s = cluster["slots"][node], cluster["grace_s"]
    Processes(cluster["agent"], slots, act, grace_s).keep()


def _import_distributed() -> None:
    import logging

    import distributed  # noqa: F401

    # Its every step is not for the function's log.
    logging.getLogger("distributed").setLevel(logging.WARNING)
    _tell_closed_connections()


def _tell_closed_connections() -> None:
    """Has a connection that is closed before TLS has begun fail with OSError, as any other does, so that it is tried again: each is that
    comes by the client's way before the scheduler listens. Tornado (6.6) raises ValueError, and distributed (2026.8) lets it through."""
    from distributed.comm.core import CommClosedError
    from distributed.comm.tcp import TLSBackend, TLSConnector

    class Connector(TLSConnector):  # type: ignore[misc]
        async def connect(self, address: str, *args: Any, **more: Any) -> Any:
            try:
                return await super().connect(address, *args, **more)
            except ValueError as error:
                raise CommClosedError(f"{address} closed the connection: {error}") from error

    TLSBackend._connector_class = Connector


def _worker(cluster: Mapping[str, Any], node: int, slot: int) -> None:
    if cluster["by"] == "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = cluster["devices"][node][slot]
    security = _security(cluster)
    # The function has no use for it.
    del os.environ[KEY_VARIABLE]
    calls, stopping = MainThreadPoolExecutor(), _stopping(cluster)
    at_work = AtWork(
        f"{node}-{slot}-{os.getpid()}",
        cluster["scheduler"],
        security,
        Maker(cluster["agent"], node, stopping),
        cluster["grace_s"],
    )
    try:
        threading.Thread(
            target=_serve_aside, args=(cluster, node, slot, at_work, calls), daemon=True
        ).start()
        calls.work()
    except KeyboardInterrupt:
        if not stopping.asked:
            raise
        at_work.interrupted()


def _stopping(cluster: Mapping[str, Any]) -> Any:
    """Has this process hear the first SIGTERM as an interrupt, as the agent does; what it is a copy of heard its own."""
    return import_module(f"{cluster['agent']}.caller").Stopping()


def _serve_aside(*what: Any) -> None:
    """In a thread of its own: without it the process is of no use."""
    import asyncio

    try:
        asyncio.run(_serve(*what))
    except BaseException:  # noqa: BLE001  # said on the log of the machine, like whatever ends a copy
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


async def _serve(
    cluster: Mapping[str, Any], node: int, slot: int, at_work: AtWork, calls: Executor
) -> None:
    """Has a worker in this process, and another one each time that its way to the scheduler has broken."""
    import asyncio
    import logging

    from distributed import Worker

    # Of which the function's log need not know: the next thing that happens is another worker.
    logging.getLogger("distributed.worker").addFilter(
        lambda record: not record.getMessage().startswith("Failed to communicate with scheduler")
    )
    ports = cluster["ports"][node]
    new_worker = functools.partial(
        Worker,
        cluster["scheduler"],
        nthreads=1,
        name=at_work.process,
        host=HOST,
        # Its own; and those that are nobody's, if somebody has taken it.
        port=[ports[slot], *ports[cluster["slots"][node] :]],
        protocol="tls",
        security=at_work.security,
        executor=calls,
        dashboard=False,
        # Also where there is no dashboard something is served there.
        dashboard_address=f"{HOST}:0",
        memory_limit=None,
        local_directory=str(Path.cwd()),
    )
    listening, failures = _not_in_children(), 0
    # Functions may change the working folder.
    mark = up_mark(slot).absolute()
    while True:
        await at_work.join()
        try:
            await _serve_once(new_worker(), at_work, mark, listening)
            failures = 0
        except Exception:
            failures += 1
            # A call may be under way, which ends with this process.
            if failures == FAILURES or not mark.exists():
                raise
            sys.excepthook(*sys.exc_info())
            await asyncio.sleep(1.0)


async def _serve_once(worker: Any, at_work: AtWork, mark: Path, listening: list[int]) -> None:
    """Has calls made by a worker until its way to the scheduler breaks."""
    import asyncio

    worker.dayfly = at_work
    try:
        async with worker:
            listening += _listened_on()
            mark.touch()
            forgetting = asyncio.create_task(at_work.forget())
            await worker.finished()
            forgetting.cancel()
    finally:
        listening.clear()
        at_work.leave(worker.data)


def _not_in_children() -> list[int]:
    """Descriptors that a forked child of this process closes: it may outlive it, and would keep its port."""
    listening: list[int] = []

    def close() -> None:
        for descriptor in listening:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    os.register_at_fork(after_in_child=close)
    return listening


def _listened_on() -> list[int]:
    """Descriptors of this process on which it listens."""
    import socket
    import stat

    found = []
    for entry in Path("/dev/fd").iterdir():
        number = int(entry.name)
        # One of them was that of this very list.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as one:
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found.append(number)
    return found


def _scheduler(cluster: Mapping[str, Any]) -> None:
    import asyncio

    import dask.config
    from distributed import Scheduler

    # A function that keeps its interpreter for itself sends no heartbeat for as long; and a call that is made again
    # because its worker has gone is not begun again, whatever has become of it.
    how = {"worker-ttl": None, "allowed-failures": 1 << 30}
    dask.config.set({f"distributed.scheduler.{name}": value for name, value in how.items()})

    async def serve() -> None:
        scheduler = Scheduler(
            host=HOST,
            port=cluster["port"],
            protocol="tls",
            security=_security(cluster),
            dashboard=True,
            dashboard_address=f"{HOST}:{cluster['dashboard']}",
        )
        begun = Begun(scheduler)
        for name in ("claim", "stop", "told", "join"):
            scheduler.handlers[f"dayfly_{name}"] = getattr(begun, name)
        async with scheduler:
            await scheduler.finished()

    asyncio.run(serve())


def _security(cluster: Mapping[str, Any]) -> Any:
    """Both ends of every connection have to have the run's own key."""
    from distributed import Security

    certificate, key = cluster["certificate"], os.environ[KEY_VARIABLE]
    roles = ("scheduler", "worker", "client")
    return Security(
        require_encryption=True,
        tls_ca_file=certificate,
        **{f"tls_{role}_cert": certificate for role in roles},
        **{f"tls_{role}_key": key for role in roles},
    )


# -- on the first machine, in the processes that take the client's calls


def relayed(
    cluster: Mapping[str, Any],
    digest: str = "",
    arguments: Sequence[bytes | bytearray] = (),
    data: Sequence[Mapping[str, Any]] = (),
    *,
    begin: bool = False,
) -> bytes:
    """Has a worker make one call, and gives what came of it: a header and a pickle, as every result has them.

    Args:
        cluster: where the scheduler is, and what its certificate is.
        digest: SHA-256 of the content that holds the function.
        arguments: the pickled arguments, in pieces.
        data: where Data among them is, on each machine.
        begin: starts scheduler and workers instead, and waits until all machines have theirs.
    """
    try:
        if begin:
            return _begin(cluster)
        task = _content(cluster, digest)
        return _made_by_a_worker(_client(cluster), task, digest, b"".join(arguments), data)
    except Exception as error:  # noqa: BLE001  # its own are not known where Dask is not installed
        raise RuntimeError(
            f"Dask could not make the call: {type(error).__name__}: {error}"
        ) from None


def _content(cluster: Mapping[str, Any], digest: str) -> bytes:
    """What the client has put into this machine's cache."""
    from hashlib import sha256

    if digest not in _kept:
        content = (Path(cluster["content"]).expanduser() / digest).read_bytes()
        if sha256(content).hexdigest() != digest:
            raise ValueError("the function is not the one that was sent")
        _kept[digest] = content
    found: bytes = _kept[digest]
    return found


def _begin(cluster: Mapping[str, Any]) -> bytes:
    if not os.fork():
        try:
            _become_service()
            _stopping(cluster)
            _import_distributed()
            forked(functools.partial(_scheduler, cluster))
            work(cluster, 0)
        except BaseException:  # noqa: BLE001  # as above
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    _client(cluster).wait_for_workers(sum(cluster["slots"]), timeout=_START_S)
    return _header("value") + pickle.dumps(None)


def _become_service() -> None:
    """Apart from the call that has started it, which ends; with the job's own log, and in its session of processes."""
    os.setsid()
    job = Path(os.environ["DAYFLY_OUTPUT_DIR"]).parent
    for target, name in ((0, os.devnull), (1, f"{job}/stdout.log"), (2, f"{job}/stderr.log")):
        opened = os.open(name, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, target)
        os.close(opened)
    os.closerange(3, 4096)
    os.chdir(f"{job}/work")


def _client(cluster: Mapping[str, Any]) -> Any:
    _import_distributed()
    import warnings

    from distributed import Client

    # How much a call takes is its caller's to say.
    warnings.filterwarnings("ignore", "Sending large graph")
    if "client" not in _kept:
        _kept["client"] = Client(
            cluster["scheduler"],
            security=_security(cluster),
            timeout=_START_S,
            set_as_default=False,
        )
    return _kept["client"]


def _made_by_a_worker(client: Any, *what: Any) -> bytes:
    from uuid import uuid4

    call = uuid4().hex
    future = client.submit(made, call, *what, key=PREFIX + call, pure=False)
    try:
        found: bytes = future.result()
    except BaseException:
        # It was stopped, or took too long.
        future.cancel()
        _stop(client, call)
        raise
    # Its process may have to make room, and waits for this.
    future.release()
    return found


def _stop(client: Any, call: str) -> None:
    """Has a call not begun any more, and the process that has begun it ended, and made anew; waits until the call is over.

    One that was out of reach since then hears, when it is there again, that nobody wants the call.
    """
    where = client.sync(client.scheduler.dayfly_stop, call=call)
    if where:
        client.run(_stop_here, call, workers=[where], on_error="ignore")


async def _stop_here(call: str, dask_worker: Any) -> None:
    """In the process of a worker, which Dask gives: it may have gone on to another call."""
    await dask_worker.dayfly.stop(call, dask_worker.data)


# -- in a worker


def made(
    call: str, task: bytes, digest: str, arguments: bytes, data: Sequence[Mapping[str, Any]]
) -> bytes:
    """Makes one call, or waits for what came of it where it has been begun before."""
    from uuid import uuid4

    from distributed import get_worker

    worker = get_worker()
    at_work: AtWork = worker.dayfly
    found: bytes | None = None
    if at_work.loaded is not None and at_work.loaded[0] != digest:
        # A process has one version of one function. This call is not begun: Dask has another process make it.
        at_work.make_room(worker)
    # Before it is claimed: from then on whoever asks must find it.
    at_work.begin(call)
    try:
        if not _asked(worker, "claim", call=call, process=at_work.process, attempt=uuid4().hex):
            return _awaited(worker, call)
        # Of the process: this very function is unpickled anew for each call.
        if at_work.loaded is None:
            at_work.loaded = digest, at_work.maker.load(task)
        found = at_work.maker.outcome(at_work.loaded[1], arguments, data)
        return found
    finally:
        at_work.end(call, found)


def _asked(worker: Any, what: str, **question: Any) -> Any:
    """The scheduler's answer, also where a connection to it has broken, as long as the worker itself is there.

    Raises:
        OSError: it is not.
    """
    from distributed.utils import sync

    while True:
        try:
            return sync(worker.loop, getattr(worker.scheduler, f"dayfly_{what}"), **question)
        except OSError:
            if worker.status.name != "running":
                raise
            time.sleep(LOOK_S)


def _awaited(worker: Any, call: str) -> bytes:
    """What came of a call that another has begun."""
    while True:
        told = _asked(worker, "told", call=call)
        if "result" in told:
            return bytes(told["result"])
        if told.get("end") == "died":
            return _header("died", signal=9, code=0, out_of_memory=False)
        if "end" in told:
            return _header(told["end"])
        time.sleep(LOOK_S)


def _header(outcome: str, **more: Any) -> bytes:
    """What is said of a call that has no result of its own."""
    usual = {"type": "", "text": "", "traceback": ""}
    return json.dumps({**usual, "outcome": outcome, **more}).encode() + b"\n"
