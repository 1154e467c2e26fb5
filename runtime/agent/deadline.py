"""The time at which everything of a run ends."""

from __future__ import annotations

import os
import sys
import time

from .asked import Asked, as_root
from .files import boot_clock_s, home_folder, lock_file, read_json, write_file
from .job_folder import JobFolder, await_end, request_stop
from .json_text import dumps
from .processes import carriers, launch_command, login_environment, send_signal, spawn


def _deadline_file(run_id: str) -> str:
    return os.path.join(home_folder(), f"deadline-{run_id}.json")


def arm_deadline(run_id: str, seconds: float, timer: bool = False, power_off: bool = False) -> str:
    """Set or move the time at which everything of the run ends, and see that somebody watches it.

    Args:
        run_id: the run.
        seconds: from now.
        timer: systemd may be asked for it, where it runs and this user may: it outlives whatever ends this user's processes.
        power_off: the machine is switched off afterwards.

    Returns:
        Who watches: "systemd", or "process".
    """
    path, at = _deadline_file(run_id), boot_clock_s() + seconds
    fires = (read_json(path) or {}).get("fires")
    armed = {"at": at, "timer": timer, "power_off": power_off, "fires": fires}
    write_file(path, dumps(armed).encode())
    # One that fires too early reads in the file that it has to wait, so none has to be taken back.
    soon_enough = fires is not None and boot_clock_s() < fires <= at
    if timer and (soon_enough or _start_timer(run_id, seconds)):
        if not soon_enough:
            write_file(path, dumps({**armed, "fires": at}).encode())
        return "systemd"
    _start_watching(run_id, path)
    return "process"


def forget_deadline(run_id: str) -> None:
    """Take it back; whoever waits for it sees that there is none any more."""
    armed = _deadline_file(run_id)
    if os.path.exists(armed):
        os.unlink(armed)


def _start_timer(run_id: str, seconds: float) -> bool:
    """Have systemd start the deadline; False where there is none, or this user may not ask it."""
    asked = Asked(["systemctl", "is-system-running"]).wait(5.0)
    if asked.words in ("", "offline", "unknown"):
        return False
    command = ["systemd-run", "--quiet", "--collect", f"--on-active={max(seconds, 0.0):.0f}s"]
    command += ["--timer-property=AccuracySec=1s", "--setenv=HOME=" + home_folder()]
    # A later one may be there for the same run; a second of the same name would be refused.
    command += ["--unit", f"dayfly-deadline-{run_id}-{time.time_ns()}", "--"]
    command += launch_command(sys.executable, ("-I", "-S", "-B"), "deadline", run_id)
    return Asked(as_root(command)).wait(10.0).code == 0


def _start_watching(run_id: str, path: str) -> None:
    """Start a detached process that waits for the deadline, unless one does."""
    lock = lock_file(path + ".lock")
    if lock is None:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    command = launch_command(sys.executable, ("-I", "-S"), "deadline", run_id, str(lock))
    try:
        # Forked twice, so that nobody has to wait for it.
        child = os.fork()
        if not child:
            try:
                spawn(
                    command,
                    login_environment(run_id),
                    home_folder(),
                    (nothing, nothing, nothing),
                    keep=(lock,),
                )
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    finally:
        os.close(nothing)
        os.close(lock)


def hold(run_id: str, seconds: float) -> None:
    """After the end of the job its result waits for so long, and never past the deadline that is armed."""
    armed = read_json(_deadline_file(run_id))
    if armed is not None and armed["at"] > boot_clock_s() + seconds:
        arm_deadline(run_id, seconds, armed.get("timer", False), armed.get("power_off", False))


def deadline(run_id: str) -> None:
    """Wait for the run's deadline, however it is moved, and end every process that carries the run's mark.

    The machine is switched off behind them where that was asked for: where its provider ends what is switched off.
    """
    import signal

    while True:
        armed = read_json(_deadline_file(run_id))
        if armed is None:
            return  # The run's home is gone, and the run with it.
        left = armed["at"] - boot_clock_s()
        if left <= 0:
            break
        time.sleep(min(left, 2.0))
    job = JobFolder.of(run_id)
    if job.exists() and job.status()["state"] == "running":
        request_stop(job, "deadline")
        await_end(job, 30.0)
        time.sleep(1.0)  # An attached client may still hear how it ended.
    mark = f"DAYFLY_RUN={run_id}"
    for number, pause_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 0.2), (signal.SIGKILL, 0.0)):
        send_signal(carriers(mark) - {os.getpid()}, number)
        time.sleep(pause_s)
    if armed.get("power_off"):
        _power_off()


def _power_off(grace_s: float = 60.0) -> None:
    """Switch the machine off, the more rudely the longer it takes; a halt alone would leave it running, and billed."""
    for command in (["systemctl", "poweroff"], ["systemctl", "poweroff", "--force"], ["poweroff"]):
        if Asked(as_root(command)).wait(grace_s).code == 0:
            time.sleep(grace_s)
