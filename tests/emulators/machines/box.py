"""The namespaces of one instance: their beginning, what is run inside of them, and their end with all that is in them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.emulators.machines import inhabitants

_INIT = Path(__file__).with_name("init.sh")
_TOOLS = ("unshare", "nsenter", "setpriv", "pivot_root", "mount", "sshd", "cc")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_S = 60.0
# A parent that died before the signal was arranged for would send none.
_UNLESS_ORPHAN = '[ "$PPID" = "$0" ] && exec "$@"'
_INTO = ("--mount", "--uts", "--ipc", "--pid", "--")


class NoNamespaces(Exception):
    """This computer, or this user, cannot have instances with machines; the message says why and what to do."""


def check() -> None:
    """Finds out whether a box can be had here, before an instance is sold.

    Raises:
        NoNamespaces: it cannot.
    """
    if sys.platform != "linux" or os.getuid() != 0:
        raise NoNamespaces(
            "instances with machines need Linux and root (mount and PID namespaces, an sshd that can change users);"
            " run this as root, or with machines=false for the HTTP API alone"
        )
    if lacking := [name for name in _TOOLS if program(name) is None]:
        raise NoNamespaces(
            f"instances with machines need {', '.join(lacking)}: apt-get install util-linux openssh-server gcc"
        )
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        raise NoNamespaces(
            f"instances with machines need namespaces, which are refused here: {tried.stderr.strip()};"
            " use machines=false for the HTTP API alone"
        )


def program(name: str) -> str | None:
    """Where a system program is; the superuser's folders are not on everybody's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")


class Box:
    """The inside of one instance, from `boot` to `kill`; it can be booted again on the same disk.

    Lifecycle: everything inside ends with its first process, which the kernel ends when `unshare` ends, which
    the kernel ends when the thread that booted it ends. So nothing outlives this process, however it dies.

    Attributes:
        namespace: of its processes, "" while it is off.
    """

    def __init__(self, disk: Path, hostname: str, environment: Mapping[str, str]) -> None:
        self.disk = disk
        self._hostname = hostname
        self._environment = dict(environment)
        self._outside: subprocess.Popen[str] | None = None
        self._init = 0
        self.namespace = ""

    @property
    def running(self) -> bool:
        """Its first process is there."""
        return self._outside is not None and self._outside.poll() is None

    def boot(self) -> None:
        """Starts the first process, and waits until it has its root.

        Raises:
            NoNamespaces: the kernel refuses a part of it.
        """
        command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _UNLESS_ORPHAN, str(os.getpid())]
        command += ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
        environment = {
            "PATH": PATH,
            "DISK": str(self.disk),
            "NAME": self._hostname,
            "KEEP": sys.base_prefix,
        }
        with (self.disk / "boot.log").open("w") as said:
            self._outside = subprocess.Popen(
                [*command, "sh", str(_INIT)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,
            )
        assert self._outside.stdout is not None
        with self._outside.stdout as out:
            ready, _, _ = select.select([out], [], [], _BOOT_S)
            if not ready or out.readline().strip() != "ready":
                self.kill()
                log = (self.disk / "boot.log").read_text().strip()
                raise NoNamespaces(f"an instance does not boot: {log or 'it takes too long'}")
        self._init = _only_child(self._outside.pid)
        self.namespace = inhabitants.namespace(self._init)

    def run(
        self, command: Sequence[str], *, text: str = "", timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside as root, with `text` on its standard input."""
        return subprocess.run(
            ["nsenter", "--target", str(self._init), *_INTO, *command],
            input=text,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )

    def processes(self, name: str) -> list[int]:
        """What of a name runs inside."""
        return [pid for pid in self._inside() if inhabitants.name(pid) == name]

    def stop(self) -> None:
        """Makes every process inside stand still; one that was being born meanwhile is met in the next round."""
        while running := [pid for pid in self._inside() if inhabitants.state(pid) not in "TtZX"]:
            _send(running, signal.SIGSTOP)
            time.sleep(0.01)

    def go_on(self) -> None:
        """Ends that."""
        _send(self._inside(), signal.SIGCONT)

    def kill(self) -> None:
        """Ends every process inside; none is left when this returns."""
        if self._outside is None:
            return
        # `unshare` ends after the namespace's first process, and that after all others; killed itself it would not wait.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init or self._outside.pid, signal.SIGKILL)
        self._outside.wait()
        self._outside, self._init, self.namespace = None, 0, ""

    def _inside(self) -> list[int]:
        space = self.namespace
        return inhabitants.of([space])[space] if space else []


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
