"""The job's folder: what is known of it, whoever asks."""

from __future__ import annotations

import os
import time

from .files import boot_clock_s, home_folder, lock_file, read_json, remove_tree, size_of, write_file
from .json_text import dumps
from .processes import carriers, end_processes, process_table, send_signal
from .refusal import TEXT_CHARACTERS, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# A client pings every nine seconds; one that was not heard of for so long is away.
CLIENT_SILENT_S = 30.0


class JobFolder:
    """The folder of one job, which is all that is known of it; every process of the agent reads the same files."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def of(cls, run_id: str) -> JobFolder:
        return cls(os.path.join(home_folder(), f"job-{run_id}"))

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def supervised(self) -> bool:
        """Tell whether the supervisor lives: it holds the lock for all its life."""
        held = lock_file(self.file("lock"), shared=True)
        if held is None:
            return True
        os.close(held)
        return False

    def end(self) -> dict[str, Any] | None:
        """Tell how the job ended, or None while it has not."""
        return read_json(self.file("end.json"))  # type: ignore[no-any-return]

    def end_without_supervisor(self) -> dict[str, Any] | None:
        """Tell how a job ended whose supervisor is gone and recorded nothing; None while its process lives."""
        if not self.exists():
            # Deleted by the function itself, while somebody follows it or asks for its end.
            return None if carriers(self.mark()) else end_record("vanished")
        started = read_json(self.file("started.json"))
        process = read_json(self.file("process.json"))
        if started is None or self.supervised():
            return self.end()
        if process is not None and process["pid"] in carriers(self.mark()):
            return None
        end = self.end()
        if end is not None:
            return end
        finished = os.path.exists(self.file("result.sealed"))
        return end_record(
            "finished" if finished else "killed",
            signal=0 if finished else 9,
            started=started["time"],
        )

    def mark(self) -> str:
        return "DAYFLY_OUTPUT_DIR=" + self.file("outputs")

    def status(self) -> dict[str, Any]:
        end = self.end() or self.end_without_supervisor() if self.exists() else None
        started = os.path.exists(self.file("started.json")) or (self.exists() and self.supervised())
        return {
            "state": "ended" if end else "running" if started else "absent",
            "end": end,
            "has_result": os.path.exists(self.file("result.sealed")),
            "acknowledged": os.path.exists(self.file("acknowledged")),
            "stdout_size": size_of(self.file("stdout.log")),
            "stderr_size": size_of(self.file("stderr.log")),
            "hand": self.hand(),
        }

    # -- whose it is, where several computers may have the run in hand

    def hand(self) -> dict[str, Any] | None:
        """Tell who has taken the run in hand; None where that is still the home that has started it."""
        return read_json(self.file("hand.json"))  # type: ignore[no-any-return]

    def check_hand(self, home: str) -> None:
        """Pass where nobody else has taken the run in hand.

        Raises:
            Refusal: somebody has, and gets what comes of it.
        """
        hand = self.hand()
        if hand is not None and hand["home"] != home:
            raise Refusal("taken", f"{hand['named']} has taken the run in hand")

    def take(self, hand: dict[str, Any], force: bool) -> None:
        """Give the run into a home's hand; whoever had it before is refused from now on.

        Args:
            hand: the home, and how people know it.
            force: also where a client of another home is there right now.

        Raises:
            Refusal: one is, or another home has fetched the result.
        """
        held = self.hand()
        if self._acknowledged_by() not in (None, hand["home"]):
            named = "the computer that started it" if held is None else held["named"]
            raise Refusal("taken", f"{named} has fetched its result, and ends the machine")
        if not force and self._is_followed_by_other(hand["home"]):
            raise Refusal("busy", "a client of another computer follows the run right now")
        write_file(self.file("hand.json"), dumps(hand).encode())

    def acknowledge(self, home: str) -> None:
        """The result is safe with a home that has the run in hand, and may be forgotten here."""
        self.check_hand(home)
        write_file(self.file("acknowledged"), home.encode())

    def _acknowledged_by(self) -> str | None:
        """Tell which home has the result; None where none has said so."""
        try:
            with open(self.file("acknowledged"), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def in_turn(self, act: Callable[[], None]) -> None:
        """Do something about whose the run is, of all who would one after the other."""
        lock = lock_file(self.file("hand.lock"), wait=True)
        assert lock is not None
        try:
            act()
        finally:
            os.close(lock)

    def follow_as(self, home: str) -> int:
        """Note that a client of a home is there; gives a descriptor that says so as long as it is open, and touched."""
        followed = lock_file(self.file("followed"), shared=True, wait=True)
        assert followed is not None
        os.ftruncate(followed, 0)
        os.pwrite(followed, home.encode(), 0)
        return followed

    def _is_followed_by_other(self, home: str) -> bool:
        path = self.file("followed")
        if not os.path.exists(path):
            return False
        unfollowed = lock_file(path)
        if unfollowed is not None:
            os.close(unfollowed)
            return False
        # A computer that sleeps, or is away, holds its connection and says nothing.
        silent_s = time.time() - os.stat(path).st_mtime
        with open(path, encoding="ascii") as file:
            return silent_s < CLIENT_SILENT_S and file.read() != home

    def require(self) -> None:
        """Pass where the job was started.

        Raises:
            Refusal: it was not, with what its supervisor has said.
        """
        if self.status()["state"] != "absent":
            return
        words = ""
        if self.exists():
            with open(self.file("supervisor.log"), encoding="utf-8", errors="replace") as file:
                words = file.read()[-TEXT_CHARACTERS:]
        raise Refusal("absent", f"no job of this run was started on the machine. {words}".strip())

    def source(self, what: str) -> str:
        """Give the path of what may be asked for: the result of the run, or that of a warm call by its number.

        Raises:
            Refusal: there is no such thing.
        """
        if what == "result":
            return self.file("result.sealed")
        if what.isdigit():
            return self.file(os.path.join("calls", f"{what}.sealed"))
        raise Refusal("machine", f"there is nothing called {what!r} to get")

    def claim(self, place_task: Callable[[str], None]) -> int | None:
        """Make the folder, at most once for a run.

        Args:
            place_task: puts the sealed task at the path that it is given.

        Returns:
            The descriptor of the held lock, for the supervisor to inherit; None where the job was claimed before.
        """
        if not self.exists():
            aside = JobFolder(f"{self.path}.{os.getpid()}.{time.time_ns()}")
            os.mkdir(aside.path, 0o700)
            aside._furnish(place_task)
            lock = lock_file(aside.file("lock"))
            try:
                # Renaming onto a folder that is not empty fails: whoever comes second has not claimed it.
                os.rename(aside.path, self.path)
                return lock
            except OSError:
                if lock is not None:
                    os.close(lock)
                remove_tree(aside.path)
        return self._claim_unstarted()

    def _furnish(self, place_task: Callable[[str], None]) -> None:
        for folder in ("work", "outputs", "checkpoints"):
            os.mkdir(self.file(folder), 0o700)
        for log in ("stdout.log", "stderr.log", "supervisor.log"):
            os.close(os.open(self.file(log), os.O_WRONLY | os.O_CREAT, 0o600))
        place_task(self.file("task.sealed"))

    def _claim_unstarted(self) -> int | None:
        """Take over a job whose agent died between claiming it and starting its supervisor."""
        for _ in range(50):
            lock = lock_file(self.file("lock"))
            if os.path.exists(self.file("started.json")):
                if lock is not None:
                    os.close(lock)
                return None
            if lock is not None:
                return lock
            time.sleep(
                0.01
            )  # Held by a supervisor that is starting, or for an instant by somebody who looked.
        return None


def end_record(
    how: str,
    *,
    code: int = 0,
    signal: int = 0,
    out_of_memory: bool = False,
    started: float = 0.0,
    peak_rss_bytes: int = 0,
    detail: str = "",
    cue: str = "",
) -> dict[str, Any]:
    return {
        "how": how,
        "code": code,
        "signal": signal,
        "out_of_memory": out_of_memory,
        "started": started,
        "ended": time.time(),
        "peak_rss_bytes": peak_rss_bytes,
        "detail": detail,
        "cue": cue,
    }


def request_stop(job: JobFolder, reason: str) -> None:
    """Ask the supervisor to end the job; a job that has no supervisor is ended at once."""
    import signal

    if job.end() is not None:
        return
    if not job.exists():
        send_signal(carriers(job.mark()), signal.SIGKILL)
        return
    started = read_json(job.file("started.json"))
    if not os.path.exists(job.file("stop")):
        write_file(job.file("stop"), reason.encode())
    if job.supervised():
        if started is not None:
            send_signal([started["pid"]], signal.SIGTERM)
    else:
        send_signal(carriers(job.mark()), signal.SIGKILL)


def end_rest(job: JobFolder, grace_s: float = 2.0) -> None:
    """End what carries the mark of a job that has ended itself, so that the next one has the machine for itself."""
    left = end_processes(lambda: carriers(job.mark()) & set(process_table()), grace_s)
    if left:
        names = ", ".join(map(str, sorted(left)))
        raise Refusal("machine", f"processes {names}, which a function has left, do not end")


def await_end(job: JobFolder, timeout_s: float) -> None:
    over = boot_clock_s() + timeout_s
    while job.end() is None and boot_clock_s() < over:
        time.sleep(0.05)
