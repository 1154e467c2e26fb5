"""The supervisor: starts the job, enforces max_runtime, records how it ended."""

from __future__ import annotations

import os
import sys
import time

from .checkpoint_sync import CheckpointSync
from .deadline import hold
from .files import boot_clock_s, write_file
from .job_folder import JobFolder, end_record
from .json_text import dumps
from .processes import (
    adopt_orphans,
    carriers,
    descendants,
    end_processes,
    launch_command,
    login_environment,
    oom_kills,
    process_table,
    send_signal,
    spawn_with_order,
    take_order,
)
from .sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# An attached client needs this long to read the end and to fetch the result.
HOLD_S_LEAST = 60.0
# What a job has left running on a machine that goes on is asked to end, and has so long for it.
REST_GRACE_S = 2.0


class Supervisor:
    """Starts one job and stays beside it: the only process that knows how it ended."""

    def __init__(self, job: JobFolder, order: dict[str, Any]) -> None:
        self.job, self.order = job, order
        self._wake, self._woken = os.pipe()
        self._pid = 0
        self._reaped: tuple[int, int] | None = None
        self._sampler = Sampler(job, order, self._rouse)
        self._checkpoints = CheckpointSync(job, order)

    def supervise(self) -> None:
        started, oom_before = time.time(), oom_kills()
        self._listen()
        record = {"pid": os.getpid(), "time": started}
        write_file(self.job.file("started.json"), dumps(record).encode())
        # Before the job, whose environment it has, and before any thread: it is forked.
        self._checkpoints.start()
        self._sampler.apart = self._checkpoints.processes
        self._start()
        adopt_orphans()
        self._sampler.start(self._pid)
        deadline = boot_clock_s() + self.order["max_runtime_s"]
        reason = self._wait(deadline)
        self._sampler.stop()
        if reason:
            self._end_tree()
        elif self.order.get("ends_rest"):
            # Only this process finds all of it: what has an environment of its own carries no mark.
            end_processes(self._rest, REST_GRACE_S)
        status, peak_rss_bytes = self._reaped or (0, 0)
        end = self._describe(reason, status, started, oom_kills() > oom_before)
        end["peak_rss_bytes"] = peak_rss_bytes
        self._checkpoints.finish(reason, deadline)
        self._hold()
        write_file(self.job.file("end.json"), dumps(end).encode())

    def _hold(self) -> None:
        # Before the end can be read: a client that reads it may set a deadline of its own, which must stand.
        try:
            hold(self.order["run_id"], max(self.order["hold_s"], HOLD_S_LEAST))
        except Exception:  # noqa: BLE001 - whatever it is, the armed deadline stays, and the end must be told
            return

    def _listen(self) -> None:
        import signal

        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        # A stop that came before anyone listened is in its file.

    def _start(self) -> None:
        order = {name: self.order[name] for name in ("run_id", "key", "secrets", "pickler")}
        outputs = [
            os.open(self.job.file(log), os.O_WRONLY | os.O_APPEND)
            for log in ("stdout.log", "stderr.log")
        ]
        environment = {
            **login_environment(self.order["run_id"]),
            "PYTHONUNBUFFERED": "1",
            **self.order["variables"],
            "DAYFLY_RUN": self.order["run_id"],
            "DAYFLY_OUTPUT_DIR": self.job.file("outputs"),
            "DAYFLY_CHECKPOINT_DIR": self.job.file("checkpoints"),
        }
        command = launch_command(self.order["python"], (), "run", self.job.path)
        folder, streams = self.job.file("work"), (outputs[0], outputs[1])
        self._pid = spawn_with_order(command, environment, folder, streams, order=order)
        for descriptor in outputs:
            os.close(descriptor)
        write_file(self.job.file("process.json"), dumps({"pid": self._pid}).encode())

    def _wait(self, deadline: float) -> str:
        """Wait for the job's end; give why it has to be ended, or "" where it ended by itself."""
        while True:
            if self._reap():
                return ""
            if os.path.exists(self.job.file("stop")):
                with open(self.job.file("stop"), encoding="ascii") as file:
                    return file.read()
            if self._sampler.idle:
                return "idle"
            left = deadline - boot_clock_s()
            if left <= 0:
                return "deadline"
            self._sleep(min(left, 60.0))

    def _rouse(self) -> None:
        os.write(self._woken, b"\0")

    def _sleep(self, seconds: float) -> None:
        from select import select

        select([self._wake], [], [], seconds)
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            return

    def _reap(self) -> bool:
        """Collect every child that has ended; tell whether the job's own process is among them."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self._checkpoints.note(pid, status)
            if pid == self._pid:
                unit = 1 if sys.platform == "darwin" else 1024
                self._reaped = (status, usage.ru_maxrss * unit)
        return self._reaped is not None

    def _tree(self) -> set[int]:
        """Every process of the job: below us, in its session, or with its mark in the environment."""
        table = process_table()
        found = descendants({os.getpid()}, table)
        found |= {pid for pid, (_, session) in table.items() if session == self._pid}
        found |= carriers(self.job.mark()) & set(table)
        return found - {os.getpid()} - self._sampler.own

    def _rest(self) -> set[int]:
        self._reap()
        return self._tree()

    def _end_tree(self) -> None:
        """SIGTERM to the whole tree, the grace, then SIGKILL until nothing of it is left."""
        import signal

        tree = self._tree()
        # It must know of the stop before it sees what it has started end of that.
        send_signal([self._pid], signal.SIGTERM)
        send_signal(tree - {self._pid}, signal.SIGTERM)
        grace_over = boot_clock_s() + self.order["grace_s"]
        while not (self._reap() and not self._tree()) and boot_clock_s() < grace_over:
            self._sleep(0.02)
        # A process can fork while it is being looked for; a hundred rounds end all but the unkillable.
        for _ in range(100):
            tree = self._tree()
            if self._reap() and not tree:
                return
            send_signal(tree, signal.SIGKILL)
            time.sleep(0.02)

    def _describe(self, reason: str, status: int, started: float, oom: bool) -> dict[str, Any]:
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        has_result = os.path.exists(self.job.file("result.sealed"))
        # A function that took the deadline as its cue to return has finished; a stop was somebody's wish.
        detail = self._sampler.idle if reason == "idle" else ""
        if reason and not (reason in ("deadline", "idle") and has_result):
            return end_record(reason, code=code, signal=signalled, started=started, detail=detail)
        if has_result:
            return end_record(
                "finished",
                code=code,
                signal=signalled,
                started=started,
                detail=detail,
                cue=reason,
            )
        if signalled:
            return end_record(
                "killed", signal=signalled, out_of_memory=oom and signalled == 9, started=started
            )
        return end_record("exited", code=code, started=started)


def supervise(path: str) -> None:
    """Detach, then guard the job in `path` to its end."""
    order = take_order()
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    Supervisor(JobFolder(path), order).supervise()
