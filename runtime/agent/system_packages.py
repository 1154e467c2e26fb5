"""Packages of the machine's own system."""

from __future__ import annotations

import _thread
import os
import time

from .asked import as_root
from .files import lock_file
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class SystemPackages:
    """Packages of the system, installed as root by its own package manager.

    What it does goes into a file and not to this process, which ends with its channel: a package manager that is ended in
    the middle leaves a system that is half made. Whoever comes next waits for it, and finds what it has done.
    """

    # The manager, what tells whether a package is there, what installs, what brings its lists up to date.
    MANAGERS = (
        (
            "apt-get",
            ["dpkg-query", "--show", "--showformat=${db:Status-Status}"],
            ["-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600", "install"],
            ["-y", "update"],
        ),
        ("dnf", ["rpm", "--query"], ["-y", "install"], ["-y", "makecache"]),
        ("yum", ["rpm", "--query"], ["-y", "install"], ["-y", "makecache"]),
        ("apk", ["apk", "info", "--installed"], ["add"], ["update"]),
    )
    # While a new machine sets itself up, its lists may be taken.
    TRIES, PAUSE_S = 20, 3.0
    WORDS_BYTES = 4000

    def __init__(self, cache: str, names: Iterable[str]) -> None:
        self._cache, self._names = cache, list(names)

    def install(self, emit: Callable[[str], None]) -> None:
        """Install what is not there.

        Raises:
            Refusal: of kind "environment", with the manager's own words.
        """
        from shutil import which

        # A login's PATH may be without the folders of the system's own programs.
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin:/usr/bin:/bin"
        found = [manager for manager in self.MANAGERS if which(manager[0], path=path)]
        if not found:
            known = ", ".join(manager[0] for manager in self.MANAGERS)
            raise Refusal("environment", f"system_packages=: the machine has none of {known}")
        program, query, install, update = found[0]
        lock = lock_file(os.path.join(self._cache, "system-packages.lock"), wait=True)
        try:
            missing = [name for name in self._names if not self._is_there(query, name)]
            if not missing:
                return
            words = self._run(program, [*install, *missing], lock, emit)
            for _ in range(self.TRIES if words else 0):
                # The lists of a new machine are empty or old.
                if not self._run(program, update, lock, emit):
                    break
                time.sleep(self.PAUSE_S)
            words = words and self._run(program, [*install, *missing], lock, emit)
            if words:
                raise Refusal("environment", f"{program} could not install {missing}:\n{words}")
        finally:
            if lock is not None:
                os.close(lock)

    @staticmethod
    def _is_there(query: list[str], name: str) -> bool:
        from subprocess import DEVNULL, PIPE, run

        if "=" in name:
            return False  # The manager knows its versions.
        try:
            done = run([*query, name], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, check=False)
        except OSError:
            return False
        # Of what was removed dpkg may still keep the configuration.
        there = query[0] != "dpkg-query" or done.stdout.strip() == b"installed"
        return done.returncode == 0 and there

    def _run(
        self, program: str, arguments: list[str], lock: int | None, emit: Callable[[str], None]
    ) -> str:
        """Run the manager to its end; "" where that was a good one, else its last words."""
        from subprocess import DEVNULL, STDOUT, Popen

        command = as_root(["env", "DEBIAN_FRONTEND=noninteractive", program, *arguments])
        path = os.path.join(self._cache, f"system-packages-{os.getpid()}-{_thread.get_ident()}.log")
        with open(path, "w+b") as log:
            os.unlink(path)
            try:
                process = Popen(
                    command,
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=STDOUT,
                    pass_fds=[lock] if lock is not None else [],
                    start_new_session=True,
                )
            except OSError as error:
                return f"{command[0]}: {error}"
            read = 0
            while True:
                ended = process.poll() is not None
                lines = os.pread(log.fileno(), 1 << 20, read)
                lines = lines[: lines.rfind(b"\n") + 1]
                read += len(lines)
                for line in lines.decode(errors="replace").splitlines():
                    emit(line)
                if ended and not lines:
                    break
                if not lines:
                    time.sleep(0.1)
            if process.returncode == 0:
                return ""
            size = os.fstat(log.fileno()).st_size
            words = os.pread(log.fileno(), self.WORDS_BYTES, max(0, size - self.WORDS_BYTES))
            return words.decode(errors="replace").strip() or f"exit code {process.returncode}"
