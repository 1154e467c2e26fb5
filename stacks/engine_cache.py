"""The folder where engines are kept: one builder at a time, and only whole engines in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BUILD_VARIABLE = "DAYFLY_ENGINE_BUILD"  # carried by every process of a build, with its folder
_ASIDE = ".making-"
_POLL_S = 0.2
_BEAT_S = 10.0


@contextlib.contextmanager
def only_builder(home: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `home`; others wait and say for whom. What dead builders left is wiped.

    Raises:
        OSError: the folder cannot be made or written.
    """
    _make_private(home)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(descriptor, progress)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        _wipe_leftovers(home)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def aside(home: Path) -> Iterator[Path]:
    """A private folder to make an engine in; gone afterwards unless it was published."""
    folder = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=home))
    try:
        yield folder
    except KeyboardInterrupt:
        # It may have come between the start of a command and the first look at it.
        _end_builds(home)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, folder: Path, version: str, origin: str) -> None:
    """Turn `made` into `folder` in one step, safely on the disk before it can be seen."""
    for path in made.iterdir():
        if path.name != "bin":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write(made / "engine.json", json.dumps({"version": version, "made": origin}))
    _settle(made)
    if folder.exists():  # one that `find` refuses: damaged, or open to others
        folder.rename(made.with_name(f"{made.name}-old"))
    made.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(made.with_name(f"{made.name}-old"), ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Replace a small file in one step, readable by its owner only."""
    _make_private(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _make_private(folder: Path) -> None:
    # With a umask of 002 a parent that we make would be open to the group.
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)


def _wait_for(descriptor: int, progress: Callable[[str], None]) -> None:
    started = told = time.monotonic()
    first = True
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return
        now = time.monotonic()
        if first or now - told >= _BEAT_S:
            first, told = False, now
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            waited = f" ({now - started:.0f} s)"
            progress(f"waiting for process {holder}, which is making the Pulumi CLI{waited}")
        time.sleep(_POLL_S)


def _wipe_leftovers(home: Path) -> None:
    leftovers = list(home.glob(f"{_ASIDE}*"))
    if leftovers:
        # The compiler of a killed builder goes on without it, and would write into what is wiped.
        _end_builds(home)
    for folder in leftovers:
        shutil.rmtree(folder, ignore_errors=True)


def _end_builds(home: Path) -> None:
    import psutil

    ended = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            made = process.environ().get(BUILD_VARIABLE, "")
            if made and Path(made).parent == home and process.pid != os.getpid():
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=_BEAT_S)


def _settle(folder: Path) -> None:
    """Owner-only modes whatever the umask was, and everything on the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700 if os.access(path, os.X_OK) else 0o600)
                _sync(path)
        Path(parent).chmod(0o700)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
