"""What the supervisor has of the process that keeps its job's checkpoints in a bucket."""

from __future__ import annotations

import os
import time

from .files import boot_clock_s
from .processes import launch_command, login_environment, send_signal, spawn_with_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .job_folder import JobFolder

# For the last state of the folder. Whoever has asked for a stop waits for its end, and no longer than twice a usual grace;
# at a deadline the machine itself has a minute left; after an end of its own the job has the rest of its time.
_STOPPED_S, _LEAST_S, _MOST_S = 8.0, 30.0, 600.0


class CheckpointSync:
    """The process beside one job; a job without a bucket has none."""

    def __init__(self, job: JobFolder, order: Mapping[str, Any]) -> None:
        self._job, self._order = job, order
        self._pid = 0
        self._control = -1
        self._status: int | None = None

    @property
    def processes(self) -> set[int]:
        """What is no part of the job."""
        return {self._pid} if self._pid else set()

    def start(self) -> None:
        import signal

        if not self._order.get("bucket"):
            return
        reading, self._control = os.pipe()
        log = os.open(self._job.file("supervisor.log"), os.O_WRONLY | os.O_APPEND)
        order = {
            "url": self._order["bucket"],
            "run_id": self._order["run_id"],
            "secrets": self._order["secrets"],
            "every_s": self._order["bucket_every_s"],
            "control": reading,
            "lock": self._order["lock"],
        }
        environment = {
            **login_environment(self._order["run_id"]),
            **self._order["variables"],
            "DAYFLY_RUN": self._order["run_id"],
        }
        command = launch_command(self._order["python"], (), "sync", self._job.path)
        try:
            self._pid = spawn_with_order(
                command,
                environment,
                self._job.path,
                (log, log),
                order=order,
                keep=(reading,),
                # A machine that is taken back asks every process to end, whenever that is: what the function writes then must
                # still get there.
                deaf_to=(signal.SIGTERM,),
            )
        finally:
            os.close(log)
            os.close(reading)

    def finish(self, reason: str, deadline: float) -> None:
        """Have the last state brought, and wait for it as long as that can matter.

        Args:
            reason: why the job was ended, "" where it has ended by itself.
            deadline: of the job, by the clock that counts since boot.
        """
        import signal

        if not self._pid:
            return
        os.close(self._control)
        began = boot_clock_s()
        own_s = _LEAST_S if reason else min(_MOST_S, max(_LEAST_S, deadline - began))
        while not self._has_ended():
            # Asked for meanwhile, a stop has left its file.
            stopped = reason == "stopped" or (not reason and os.path.exists(self._job.file("stop")))
            patience_s = _STOPPED_S if stopped else own_s
            if boot_clock_s() - began > patience_s:
                send_signal([self._pid], signal.SIGKILL)
                os.waitpid(self._pid, 0)
                self._complain(f"in {patience_s:.0f} s")
                return
            time.sleep(0.02)
        if self._status:
            # What it has not said itself: it was killed, or could not even begin.
            self._complain(
                f"by the process that brings them, which ended with status {self._status}"
            )

    def note(self, pid: int, status: int) -> None:
        """Learn of an end that was collected with others."""
        if pid == self._pid:
            self._status = status

    def _has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.note(pid, status)
        return self._status is not None

    def _complain(self, why: str) -> None:
        line = f"dayfly: the last checkpoints did not get to {self._order['bucket']} {why}; the state before them is there\n"
        try:
            with open(self._job.file("stderr.log"), "ab") as log:
                log.write(line.encode())
        except OSError:
            return  # The function has deleted its folder, or filled the disk.
