"""The environment of the function, made once a hash."""

from __future__ import annotations

import os
import time

from .blobs import link_blob
from .facts import interpreters
from .files import lock_file, remove_tree, write_file
from .processes import login_environment
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from subprocess import Popen
    from typing import Any

    from .store import Store


class Environment:
    """One Python environment, made in place under a lock by uv; `.ready` is written last."""

    WORDS_LINES = 60
    # They may hold the passwords of indexes, and the folder outlives the run in the machine's cache.
    LISTINGS = ("requirements.txt", "constraints.txt", "resolved.txt")

    def __init__(
        self,
        cache: str,
        run_id: str,
        store: Store,
        builds: set[Popen[str]],
        request: Mapping[str, Any],
    ) -> None:
        import threading

        self._cache, self._run_id, self._store = cache, run_id, store
        self._builds, self._request = builds, request
        self._base = os.path.join(cache, "environments")
        self._folder = os.path.join(self._base, os.path.basename(request["digest"]))
        self._tail: list[str] = []
        self._chosen: dict[str, str] = {}
        self._listing = threading.Lock()
        self._has_listings = self._left = False

    @property
    def _python(self) -> str:
        return os.path.join(self._folder, "venv", "bin", "python")

    def ready(self) -> str:
        """Give the environment's Python, or "" where it is not made yet."""
        made = os.path.exists(os.path.join(self._folder, ".ready")) and os.access(
            self._python, os.X_OK
        )
        return self._python if made else ""

    def build(self, emit: Callable[[str], None]) -> str:
        """Make it unless it is made; a second user waits for the first.

        Raises:
            Refusal: of kind "environment", with the resolver's words.
        """
        os.makedirs(self._base, 0o700, exist_ok=True)
        lock = lock_file(self._folder + ".lock")
        if lock is None:
            emit("waiting for another run that makes the same environment")
            lock = lock_file(self._folder + ".lock", wait=True)
        try:
            return self.ready() or self._make(emit)
        finally:
            if lock is not None:
                os.close(lock)

    def _make(self, emit: Callable[[str], None]) -> str:
        remove_tree(self._folder)
        os.mkdir(self._folder, 0o700)
        uv, minor = self._uv(), self._request["python"]
        try:
            # A relative path in a requirements file counts from that file or from the working directory: they are one here.
            self._place_files()
            self._install(uv, minor, emit)
        finally:
            with self._listing:
                self._remove_listings()
        write_file(os.path.join(self._folder, ".ready"), b"")
        return self._python

    def leave(self) -> None:
        """Nobody waits for it any more, and this process ends: nothing that may be secret stays, nor comes after this."""
        with self._listing:
            self._left = True
            self._remove_listings()

    def _remove_listings(self) -> None:
        """Whole or in part; but not those of another process, whose turn it is with this environment."""
        if not self._has_listings:
            return
        self._has_listings = False
        for name in os.listdir(self._folder):
            if name.startswith(self.LISTINGS):
                os.unlink(os.path.join(self._folder, name))

    def _install(self, uv: str, minor: str, emit: Callable[[str], None]) -> None:
        base = interpreters(self._cache).get(minor)
        if self._run([uv, "venv", "--python", base or minor, "venv"], emit):
            words = "\n".join(self._tail)
            raise Refusal(
                "environment", f"uv could not make an environment of Python {minor}:\n{words}"
            )
        if self._request["wheels"] or self._request["requirements"].strip():
            install = [uv, "pip", "install", "--python", self._python]
            install += ["-r", "requirements.txt", "-c", "constraints.txt"]
            install += self._fitting(uv, emit)
            if self._run(install, emit):
                raise Refusal("environment", "\n".join(self._tail))
        for check in self._request["checks"]:
            if self._run([self._python, "-c", check], emit):
                raise Refusal("environment", "\n".join(self._tail))

    def _fitting(self, uv: str, emit: Callable[[str], None]) -> list[str]:
        """Choose the builds of what comes along without being named, and give what is to be installed besides for it."""
        builds, extra = self._request["torch_builds"], self._request["jax_extra"]
        if not builds and not extra:
            return []
        resolve = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
        resolve += ["--python", self._python, "-c", "constraints.txt", "-o", "resolved.txt"]
        if self._run([*resolve, "requirements.txt"], emit):
            raise Refusal("environment", "\n".join(self._tail))
        found = self._resolved()
        torch, jax = found.get("torch", ""), found.get("jax", "")
        # A version with a label is of an index that has this build alone.
        if builds and torch and "+" not in torch:
            backend = builds.get(".".join(torch.split(".")[:2]), "auto")
            emit(f"torch {torch} comes along: its build for {backend} is installed")
            self._chosen = {"UV_TORCH_BACKEND": backend}
        if not extra or not jax or any(name.startswith("jax-cuda") for name in found):
            return []
        emit(f"jax {jax} comes along: it is installed with its plugin for GPUs")
        return [f"jax[{extra}]=={jax}"]

    def _resolved(self) -> dict[str, str]:
        """Give the version of each distribution that would be installed from an index."""
        import re

        with open(os.path.join(self._folder, "resolved.txt"), encoding="utf-8") as file:
            return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", file.read(), re.MULTILINE))

    def _uv(self) -> str:
        """Give the path of uv, an executable under its own digest."""
        digest = os.path.basename(self._request["uv"])
        path = os.path.join(self._cache, "uv", digest)
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            # Another environment may be doing the same: each puts its own in place, and the content stays for the next.
            aside = f"{path}.{os.getpid()}.{time.time_ns()}"
            link_blob(self._store.path(digest), aside)
            os.chmod(aside, 0o500)
            os.rename(aside, path)
            if os.path.exists(aside):
                os.unlink(aside)  # It was the same file, and renaming that does nothing.
        return path

    def _place_files(self) -> None:
        """Write the requirements and put the wheels beside them; wheels that no line names are added."""
        wheels = {name: digest for name, digest in self._request["wheels"]}
        for name, digest in wheels.items():
            link_blob(self._store.path(digest), os.path.join(self._folder, os.path.basename(name)))
        lines, named = [], set()
        for line in self._request["requirements"].splitlines():
            name = os.path.basename(line.strip())
            if name in wheels and line.strip() in (name, "./" + name):
                named.add(name)
            else:
                lines.append(line)
        lines += ["./" + name for name in wheels]
        texts = "\n".join([*lines, ""]), self._request["constraints"]
        with self._listing:
            if self._left:
                raise Refusal("environment", "nobody waits for it any more")
            self._has_listings = True
            for name, text in zip(self.LISTINGS, texts):  # noqa: B905 - 3.8 has no strict
                write_file(os.path.join(self._folder, name), text.encode())

    def _run(self, command: list[str], emit: Callable[[str], None]) -> int:
        """Run uv, hand its lines over as they come, and give its exit code."""
        from subprocess import DEVNULL, PIPE, STDOUT, Popen

        self._tail = []
        process = Popen(
            command,
            cwd=self._folder,
            env=self._variables(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._builds.add(process)
        try:
            with process as running:
                for line in running.stdout or ():
                    clear = self._redact(line.rstrip("\n"))
                    self._tail = [*self._tail, clear][-self.WORDS_LINES :]
                    emit(clear)
        finally:
            self._builds.discard(process)
        return process.returncode

    def _variables(self) -> dict[str, str]:
        return {
            **login_environment(self._run_id),
            "UV_CACHE_DIR": os.path.join(self._cache, "uv-cache"),
            "UV_PYTHON_INSTALL_DIR": os.path.join(self._cache, "python"),
            "UV_NO_PROGRESS": "1",
            **self._request["variables"],
            **self._chosen,
        }

    def _redact(self, line: str) -> str:
        """Hide the passwords of index addresses, and the values of variables that name a secret."""
        import re

        for name, value in self._request["variables"].items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY|CREDENTIAL", name, re.I) and len(value) > 3:
                line = line.replace(value, "***")
        return re.sub(r"://[^/@\s]+@", "://***@", line)
