"""The machine of one instance: a box with a real SSH server, and what happens to it one after the other."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from tests.emulators.machines import box, disk, gpus, user_data
from tests.emulators.machines.box import Box
from tests.emulators.machines.front import Front
from tests.emulators.machines.port_map import PortMap
from tests.emulators.machines.truth import Truth
from tests.emulators.machines.wanted import Wanted

_SSHD_S = 60.0
_LATE = "/var/lib/cloud/instance/scripts/runcmd"


class Machine:
    """Every act returns at once, is done by one of the executor's threads, and never overtakes an earlier one.

    Attributes:
        ended: its processes are gone; its disk, which may hold much, soon will be.
    """

    def __init__(
        self,
        id: str,
        wanted: Wanted,
        *,
        place: tuple[str, int],
        folder: Path,
        ports: PortMap,
        truth: Truth,
        executor: Executor,
        lie: str = "",
    ) -> None:
        self.id = id
        self.ended = False
        self._wanted = wanted
        self._folder = folder
        self._ports = ports
        self._truth = truth
        self._executor = executor
        self._box = Box(folder, wanted.hostname, disk.environment())
        self._lie = lie
        self._applied = False
        self._started = False
        self._ending = False
        self._lock = threading.Lock()
        self._acts: deque[Callable[[], None]] = deque()
        self._busy = False
        # Bound and never listening: nobody else gets the port, and a client is refused until the SSH server is there.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(place)
        self._host: str = place[0]
        self.port: int = self._reserved.getsockname()[1]
        self._front = None if wanted.lets_in is None else Front(self.port, wanted.lets_in)
        ports.add(id, self._host, self.port if self._front is None else self._front.port)
        self._later(self._furnish)

    def look_again(self) -> None:
        """Whoever its firewall does not let in any more is out."""
        if self._front is not None:
            self._front.look_again()

    def start_sshd(self) -> None:
        """Boots it where it is not running, and starts its SSH server."""
        self._later(self._start_sshd)

    def apply_user_data(self) -> None:
        """The first time, what cloud-init does at a first boot."""
        self._later(self._apply_user_data)

    def lie(self, lie: str) -> None:
        """Its GPUs lie from now on; "" makes them honest again."""
        gpus.check(self._wanted.gpu, lie)
        self._later(lambda: gpus.furnish(self._folder / "tools", self._wanted.gpu, lie))

    def kill_sshd(self) -> None:
        """Ends the SSH server with all of its connections; what was started over them and detached goes on."""
        self._later(self._kill_sshd)

    def freeze(self) -> None:
        """Every process stands still; connections stay open, and nothing answers."""
        self._later(self._box.stop)

    def thaw(self) -> None:
        """They go on."""
        self._later(self._box.go_on)

    def halt(self) -> None:
        """Ends every process; the disk stays."""
        self._later(self._box.kill)

    def end(self) -> None:
        """Ends every process and removes the disk; what has not begun by now never happens."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
            self._acts.clear()
        self._later(self._end)

    def run(self, command: Sequence[str]) -> str:
        """Runs a command inside as root, at once, and gives what it has said."""
        return self._box.run(command).stdout

    @property
    def is_off(self) -> bool:
        """It has been on, and has switched itself off."""
        return self._started and not self._box.running and not self._ending

    @property
    def namespace(self) -> str:
        """Where its processes are, "" while it is off."""
        return self._box.namespace

    def _later(self, act: Callable[[], None]) -> None:
        with self._lock:
            if self._ending and act != self._end:
                return
            self._acts.append(act)
            if not self._busy:
                self._busy = True
                self._executor.submit(self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._acts:
                    self._busy = False
                    return
                act = self._acts.popleft()
            try:
                act()
            except Exception:  # noqa: BLE001 - one machine's trouble is logged, and does not stop the others
                self._truth.failed(f"machine {self.id}")

    def _furnish(self) -> None:
        disk.furnish(
            self._folder,
            hostname=self._wanted.hostname,
            host=self._host,
            port=self.port,
            authorized_key=self._wanted.authorized_key,
            mounts=self._wanted.mounts,
        )
        gpus.furnish(self._folder / "tools", self._wanted.gpu, self._lie)
        self._box.boot()
        self._started = True

    def _start_sshd(self) -> None:
        if not self._box.running:
            self._box.boot()
        if self._box.processes("sshd"):
            return
        program = box.program("sshd")
        assert program is not None, "looked for when the emulator started"
        started = self._box.run([program, "-E", "/var/log/auth.log"])
        if started.returncode:
            raise RuntimeError(f"sshd: {started.stdout}")
        self._await_sshd()

    def _await_sshd(self) -> None:
        """It writes its process id once it listens."""
        waiting = "until [ -s /run/sshd.pid ]; do sleep 0.01; done"
        waited = self._box.run(["timeout", str(_SSHD_S), "sh", "-c", waiting])
        if waited.returncode:
            raise RuntimeError(f"sshd did not come up in {_SSHD_S} s")

    def _apply_user_data(self) -> None:
        if self._applied or not self._box.running:
            return
        self._applied = True
        wanted = user_data.parse(self._wanted.user_data)
        self._box.run(["sh", "-e"], text=user_data.copies(self.id, self._wanted.user_data))
        early = self._box.run(["sh", "-e"], text=wanted.early)
        self._box.run(
            ["sh", "-c", 'pid=$(cat /run/sshd.pid) && rm /run/sshd.pid && kill -HUP "$pid"']
        )
        self._await_sshd()
        self._truth.write(
            "user_data_applied",
            instance=self.id,
            ignored=list(wanted.ignored),
            failed=early.stdout if early.returncode else "",
        )
        threading.Thread(target=self._run_late, args=(wanted.late,), daemon=True).start()

    def _run_late(self, late: str) -> None:
        """The user's commands may take as long as they like; nothing waits for them but `cloud-init status --wait`."""
        self._box.run(["sh", "-c", f'mkdir -p "$(dirname {_LATE})"; cat >{_LATE}'], text=late)
        self._box.run(["sh", "-c", f"sh {_LATE} >>/var/log/cloud-init-output.log 2>&1"])
        self._box.run(["touch", "/var/lib/cloud/instance/boot-finished"])

    def _kill_sshd(self) -> None:
        while found := self._box.processes("sshd"):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self._box.run(["rm", "-f", "/run/sshd.pid"])

    def _end(self) -> None:
        self._box.kill()
        self._ports.drop(self.id)
        if self._front is not None:
            self._front.close()
        self._reserved.close()
        self.ended = True
        self._truth.write("machine_ended", instance=self.id)
        shutil.rmtree(self._folder, ignore_errors=True)
