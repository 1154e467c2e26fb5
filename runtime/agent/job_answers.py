"""The job: its start, its log, its end and its result."""

from __future__ import annotations

import os
import sys
import time

from .files import size_of, write_file
from .frames import CHUNK_BYTES
from .job_folder import request_stop
from .processes import carriers, launch_command, login_environment, spawn_with_order
from .refusal import Refusal
from .samples import IDLE_ORDERS, SAMPLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .channel import Channel
    from .job_folder import JobFolder
    from .store import Store


class JobAnswers:
    """What a client may ask of the one job of its run."""

    def __init__(self, channel: Channel, store: Store, job: JobFolder, cache: str) -> None:
        self._channel, self._store, self._job, self._cache = channel, store, job, cache
        self._followed: int | None = None

    def on_ping(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        if self._followed is not None:
            os.utime(self._followed)
        return {}

    def on_stat(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        return self._job.status()

    def on_ack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        if self._job.exists():
            self._job.in_turn(lambda: self._job.acknowledge(request.get("home", "")))
        return {}

    def on_take(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Have another home take the run in hand, whose clients alone may follow it and acknowledge its result from then on."""
        self._job.require()
        hand = {name: request[name] for name in ("home", "named", "client")}
        self._job.in_turn(lambda: self._job.take(hand, request["force"]))
        return {}

    def on_start(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Start the job unless it was started before; the task is the frame's body or a blob."""
        from .bucket_answers import restored_folder
        from .cloudpickle_folder import unpack_pickler
        from .facts import interpreter_at

        def place_task(path: str) -> None:
            if request["task"]:
                os.rename(self._store.path(request["task"]), path)
            else:
                write_file(path, body)
            if request["checkpoints"]:
                self._restore(os.path.dirname(path), request["checkpoints"])
            if request["restored"]:
                place = os.path.join(os.path.dirname(path), "checkpoints")
                # In the place of the empty one.
                os.rename(restored_folder(self._channel.run_id), place)

        if self._job.exists() and self._job.status()["state"] != "absent":
            return {"started": False}
        python = interpreter_at(request["python"], self._cache)
        pickler = unpack_pickler(self._store.path(request["pickler"]), self._cache)
        lock = self._job.claim(place_task)
        if lock is None:
            return {"started": False}
        order = {
            name: request[name]
            for name in (
                "variables",
                "secrets",
                "max_runtime_s",
                "grace_s",
                "hold_s",
                "ends_rest",
                *IDLE_ORDERS,
            )
        }
        order.update(bucket=request["bucket"], bucket_every_s=request["bucket_every_s"])
        order.update(
            run_id=self._channel.run_id,
            key=self._channel.key.hex(),
            python=python,
            pickler=pickler,
            lock=lock,
        )
        try:
            self._start_supervisor(order, lock)
        finally:
            os.close(lock)
        return {"started": True}

    def _restore(self, folder: str, listing: str) -> None:
        """Put an earlier attempt's checkpoints into the job's folder, as files of its own with the times that they had."""
        from shutil import copyfile

        told = self._store.listing(listing)
        for path, digest, size, mode in told["entries"]:
            place = os.path.join(folder, path)
            if not digest:
                os.makedirs(place, 0o700, exist_ok=True)
                continue
            copyfile(self._store.whole(digest, size), place)
            os.chmod(place, 0o600 | mode)
        for path, target in told["links"]:
            os.symlink(target, os.path.join(folder, path))
        # Whoever goes on looks for the newest.
        for path, modified_ns in told["times"]:
            os.utime(os.path.join(folder, path), ns=(modified_ns, modified_ns))

    def _start_supervisor(self, order: Mapping[str, Any], lock: int) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        log = os.open(self._job.file("supervisor.log"), os.O_WRONLY | os.O_APPEND)
        command = launch_command(sys.executable, ("-I", "-S"), "supervise", self._job.path)
        try:
            child = spawn_with_order(
                command,
                login_environment(self._channel.run_id),
                "/",
                (nothing, log),
                order=order,
                keep=(lock,),
            )
            os.waitpid(child, 0)
        finally:
            os.close(nothing)
            os.close(log)

    def on_stop(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """End the job and tell how it ended; a job that has ended already is left as it is."""
        if self._job.exists() or not carriers(self._job.mark()):
            self._job.require()
        request_stop(self._job, "stopped")
        while True:
            end = self._job.end() or self._job.end_without_supervisor()
            if end is not None:
                return {"end": end}
            time.sleep(0.01)

    def on_attach(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send both logs from the given offsets, and the samples after a number, until the job has ended and all is sent."""
        from .log_follower import LogFollower

        self._job.require()
        home = request.get("home", "")

        def check() -> None:
            if not request.get("onlooker"):
                self._job.check_hand(home)

        check()
        if home and not request.get("onlooker") and self._followed is None:
            self._followed = self._job.follow_as(home)
        follower = LogFollower(self._job, request["offsets"], request["samples"], check)
        credit = self._channel.credit(request)
        try:
            for stream, offset, data in follower.chunks():
                credit.take(len(data))
                self._channel.emit(request, {"stream": stream, "offset": offset}, data)
        finally:
            follower.close()
        return {"end": follower.end}

    def on_look(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the samples after a number, and so many of the last bytes of each log, once."""
        from .sample_file import SampleReader

        self._job.require()
        reader = SampleReader(self._job.file(SAMPLES), request["samples"])
        for number, data in reader.unread():
            self._channel.emit(request, {"stream": "samples", "offset": number}, data)
        for name in ("stdout", "stderr") if request["tail"] else ():
            path = self._job.file(f"{name}.log")
            with open(path, "rb") as log:
                offset = log.seek(max(0, size_of(path) - request["tail"]))
                self._channel.emit(
                    request, {"stream": name, "offset": offset}, log.read(request["tail"])
                )
        return self._job.status()

    def on_get(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Send the sealed result, the run's or that of one warm call, from an offset on.

        Where that is more than is wanted in this way, only its size is told.
        """
        try:
            descriptor = os.open(self._job.source(request["what"]), os.O_RDONLY)
        except FileNotFoundError:
            raise Refusal("result", "the job left no result") from None
        credit, offset = self._channel.credit(request), request["offset"]
        try:
            size = os.fstat(descriptor).st_size
            if size - offset > request["most"]:
                return {"size": size}
            while True:
                data = os.pread(descriptor, CHUNK_BYTES, offset)
                if not data:
                    break
                credit.take(len(data))
                self._channel.emit(request, {"offset": offset}, data)
                offset += len(data)
        finally:
            os.close(descriptor)
        return {"size": size}
