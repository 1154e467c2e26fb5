"""Files and descriptors, without pathlib, which takes longer to import than the first answer takes."""

from __future__ import annotations

import _thread
import os
import sys
import time

from .json_text import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


# POSIX lets a system take no more than 16 of them; those that have this call take 1024.
_PARTS_MOST = 1024


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of `data` at a place in a file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_parts_at(descriptor: int, offset: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write all of them, one behind the other, at a place in a file."""
    done = 0
    if hasattr(os, "pwritev") and 1 < len(parts) <= _PARTS_MOST:
        done = os.pwritev(descriptor, parts, offset)
    for part in parts:
        if done < len(part):
            write_at(descriptor, offset + done, memoryview(part)[done:])
        offset += len(part)
        done = max(0, done - len(part))


def free_file(descriptor: int, size: int) -> None:
    """Give back the room of a file's first bytes, which read as zeros from then on; its size stays as it is.

    Where the system or the file system cannot do that, they keep it.
    """
    if sys.platform != "linux":
        return
    try:
        import ctypes

        keep_size_and_punch_hole = 3
        free = ctypes.CDLL(None).fallocate
        free.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        free(descriptor, keep_size_and_punch_hole, 0, size)
    except (ImportError, OSError, AttributeError):
        return


def sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Write aside, sync, rename: a reader sees all of it or nothing."""
    aside = f"{path}.{os.getpid()}-{_thread.get_ident()}.tmp"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.geteuid() == 0:
            # What root leaves in a user's folder, that user must be able to read.
            owner = os.stat(os.path.dirname(path))
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(aside, path)


def read_json(path: str) -> Any:
    """Give the file's value, or None where there is no such file."""
    try:
        with open(path, "rb") as file:
            return loads(file.read())
    except FileNotFoundError:
        return None


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def home_folder() -> str:
    return os.path.expanduser("~")


def boot_clock_s() -> float:
    """Seconds that go on counting while the machine sleeps, where the platform has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def lock_file(path: str, shared: bool = False, wait: bool = False) -> int | None:
    """Lock a file and give its descriptor, or None where another holds it and `wait` is not set."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_tree(path: str) -> None:
    from shutil import rmtree

    rmtree(path, ignore_errors=True)


def in_folder(folder: str, act: Callable[[], Any]) -> Any:
    """Do something with a name in a folder: the whole path of a unix socket may be no longer than 107 bytes."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return act()
    finally:
        os.chdir(before)
