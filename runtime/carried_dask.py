"""Code of Dayfly that travels by value to the machines of a map: a Dask scheduler, its workers, and a call on them.

Dayfly is not installed there, so what stands here uses the standard library, cloudpickle and distributed alone, and what
travels as it does. Calls and results pass through Dask as bytes: what a result holds is unpickled by the client alone.

All of it listens on loopback.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dayfly.runtime.carried_calls import LOOK_S, PREFIX, AtWork, Begun

# Where a worker ends so often before it has come up, none will.
_FAILURES = 3
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
    living: dict[int, int] = {}
    failures = 0
    try:
        while failures < _FAILURES:
            for slot in sorted(set(range(cluster["slots"][node])) - set(living.values())):
                living[_forked(functools.partial(_worker, cluster, node, slot))] = slot
            ended, _ = os.wait()
            if ended not in living:
                raise RuntimeError("the Dask scheduler has ended")
            failures = 0 if _came_up(living.pop(ended)) else failures + 1
    except KeyboardInterrupt:
        return  # As every map ends: nothing to be told.
    finally:
        for pid in living:
            os.kill(pid, 9)
    raise RuntimeError("the Dask workers of this machine do not come up; their words are above")


def _came_up(slot: int) -> bool:
    mark = _mark(slot)
    came_up = mark.exists()
    mark.unlink(missing_ok=True)
    return came_up


def _mark(slot: int) -> Path:
    return Path(f"worker-{slot}.up")


def _import_distributed() -> None:
    import logging

    import distributed  # noqa: F401

    # Its every step is not for the function's log.
    logging.getLogger("distributed").setLevel(logging.WARNING)


def _forked(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        act()
        code = 0
    except BaseException:  # noqa: BLE001  # said on the log of the machine; the copy must never go on as its parent
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _worker(cluster: Mapping[str, Any], node: int, slot: int) -> None:
    import asyncio

    if cluster["by"] == "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = cluster["devices"][node][slot]
    security = _security(cluster)
    # The function has no use for it.
    del os.environ[KEY_VARIABLE]
    asyncio.run(_serve(cluster, node, slot, security))


async def _serve(cluster: Mapping[str, Any], node: int, slot: int, security: Any) -> None:
    """Has a worker in this process, and another one each time that its way to the scheduler has broken."""
    import asyncio
    import logging

    from distributed import Worker

    # Of which the function's log need not know: the next thing that happens is another worker.
    logging.getLogger("distributed.worker").addFilter(
        lambda record: not record.getMessage().startswith("Failed to communicate with scheduler")
    )
    at_work = AtWork(f"{node}-{slot}-{os.getpid()}", cluster["scheduler"], security)
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
        security=security,
        executor=_lasting_thread(),
        dashboard=False,
        # Also where there is no dashboard something is served there.
        dashboard_address=f"{HOST}:0",
        memory_limit=None,
        local_directory=str(Path.cwd()),
    )
    listening, failures = _not_in_children(), 0
    # Functions may change the working folder.
    mark = _mark(slot).absolute()
    while True:
        await at_work.join()
        try:
            await _serve_once(new_worker(), at_work, mark, listening)
            failures = 0
        except Exception:
            failures += 1
            # A call may be under way, which ends with this process.
            if failures == _FAILURES or not mark.exists():
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


def _lasting_thread() -> Any:
    """The one thread that makes the calls of this process, whichever worker they come to."""
    from concurrent.futures import ThreadPoolExecutor

    # Dask knows one by its name.
    class LastingThreadPoolExecutor(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            """A worker that closes would wait for the call, which goes on."""

    return LastingThreadPoolExecutor(1, "call")


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
    cluster: Mapping[str, Any], digest: str = "", arguments: bytes = b"", begin: bool = False
) -> bytes:
    """Has a worker make one call, and gives what came of it: a header and a pickle, as every result has them.

    Args:
        cluster: where the scheduler is, and what its certificate is.
        digest: SHA-256 of the content that holds the function.
        arguments: the pickled arguments.
        begin: starts scheduler and workers instead, and waits until all machines have theirs.
    """
    try:
        if begin:
            return _begin(cluster)
        task = _content(cluster, digest)
        return _made_by_a_worker(_client(cluster), task, digest, arguments)
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
            _import_distributed()
            _forked(functools.partial(_scheduler, cluster))
            work(cluster, 0)
        except BaseException:  # noqa: BLE001  # as above
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    _client(cluster).wait_for_workers(sum(cluster["slots"]), timeout=_START_S)
    return _header("value")


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
    from distributed import Client

    if "client" not in _kept:
        _kept["client"] = Client(
            cluster["scheduler"],
            security=_security(cluster),
            timeout=_START_S,
            set_as_default=False,
        )
    return _kept["client"]


def _made_by_a_worker(client: Any, task: bytes, digest: str, arguments: bytes) -> bytes:
    from uuid import uuid4

    call = uuid4().hex
    future = client.submit(made, task, digest, arguments, call, key=PREFIX + call, pure=False)
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
    """Has a call not begun any more, and the process that has begun it ended, and made anew.

    One that was out of reach since then hears, when it is there again, that nobody wants the call.
    """
    where = client.sync(client.scheduler.dayfly_stop, call=call)
    if where:
        client.run(_stop_here, call, workers=[where], wait=False, on_error="ignore")


async def _stop_here(call: str, dask_worker: Any) -> None:
    """In the process of a worker, which Dask gives: it may have gone on to another call."""
    await dask_worker.dayfly.stop(call, dask_worker.data)


# -- in a worker


def made(task: bytes, digest: str, arguments: bytes, call: str) -> bytes:
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
            at_work.loaded = digest, _loaded(task)
        failure, function = at_work.loaded[1]
        found = _outcome(*(failure if failure is not None else _called(function, arguments)))
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


def _loaded(task: bytes) -> tuple[tuple[dict[str, Any], Any] | None, Any]:
    """The function; or what came of it instead, and the exception itself."""
    import linecache
    import pickle
    from importlib.util import find_spec

    head, _, pickled = task.partition(b"\n")
    header = json.loads(head)
    for name, text in header["sources"].items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    missing = [n for n in header["imports"] if n not in sys.modules and not find_spec(n)]
    if missing:
        return ({"outcome": "missing_import", "modules": missing}, None), None
    try:
        return None, pickle.loads(pickled)  # noqa: S301  # the client's own, by way of the run's machines alone
    except ModuleNotFoundError as error:
        return ({"outcome": "missing_import", "modules": [error.name]}, None), None
    except Exception as error:  # noqa: BLE001  # whatever a class does when it is loaded is the user's to see
        return _raised(error), None


def _called(function: Any, arguments: bytes) -> tuple[dict[str, Any], Any]:
    import pickle

    try:
        positional, named = pickle.loads(arguments)  # noqa: S301  # as above
        return {"outcome": "value"}, function(*positional, **named)
    except SystemExit as end:
        if not end.code:
            return {"outcome": "value"}, None
        code = end.code if isinstance(end.code, int) else 1
        return {"outcome": "exited", "code": code, "text": str(end.code)[:2000]}, None
    except BaseException as error:  # noqa: BLE001  # the function's own, whatever it is
        return _raised(error)


def _raised(error: BaseException) -> tuple[dict[str, Any], Any]:
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == made.__code__.co_filename:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    return {"outcome": "raised", "text": _repr(error), "traceback": text}, error


def _outcome(head: dict[str, Any], value: Any) -> bytes:
    """Header and pickle; where that cannot be pickled, the header of that."""
    import pickle

    import cloudpickle

    head = {"type": f"{type(value).__module__}.{type(value).__qualname__}", **head}
    if head["outcome"] not in ("value", "raised"):
        return _header(**head)
    try:
        pickled: bytes = cloudpickle.dumps(value, protocol=5)
        if head["outcome"] == "raised" and type(pickle.loads(pickled)) is not type(value):  # noqa: S301  # of a moment ago
            raise TypeError(f"{type(value).__qualname__} does not survive pickling")
    except Exception as error:  # noqa: BLE001  # pickling runs code of the user's classes
        kind = "exception" if head["outcome"] == "raised" else "value"
        reason = head.get("traceback") or _raised(error)[0]["traceback"]
        head |= {"outcome": f"unpicklable_{kind}", "text": _repr(value), "traceback": reason}
        return _header(**head)
    return _header(**head) + pickled


def _header(outcome: str, **more: Any) -> bytes:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    usual = {
        "type": "",
        "text": "",
        "traceback": "",
        "modules": [],
        "code": 0,
        "provenance": {"host": os.uname().nodename, "pid": os.getpid()},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }
    return json.dumps({**usual, "outcome": outcome, **more}).encode() + b"\n"


def _repr(value: Any) -> str:
    try:
        return repr(value)[:2000]
    except Exception as error:  # noqa: BLE001  # a repr is the user's code, too
        return f"<{type(value).__qualname__}, whose repr raised {type(error).__name__}>"
