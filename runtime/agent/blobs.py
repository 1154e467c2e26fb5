"""Content by its digest, shared by the runs of one user on a machine."""

from __future__ import annotations

import _thread
import os

from .files import write_all

# Content by digest is shared by runs and linked into their folders.
BLOB_MODE, BLOB_TIME, BLOB_UNUSED_S = 0o400, 946684800, 7 * 86400.0


def finish_blob(part: str, blob: str) -> None:
    """Give content its name. Whoever changes it in place later, as only root can, changes its time, too."""
    os.chmod(part, BLOB_MODE)
    os.utime(part, (BLOB_TIME, BLOB_TIME))
    os.rename(part, blob)


def place_blob(blob: str, data: bytes | memoryview) -> None:
    """Write aside, then name it: content can be brought again, so that it need not reach the disk at once."""
    aside = f"{blob}.{os.getpid()}-{_thread.get_ident()}.tmp"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, data)
        # As `finish_blob`, without looking for the file twice: there may be thousands of them.
        os.fchmod(descriptor, BLOB_MODE)
        os.utime(descriptor, (BLOB_TIME, BLOB_TIME))
    finally:
        os.close(descriptor)
    os.rename(aside, blob)


def link_blob(blob: str, path: str) -> None:
    """Have content under another name, too: a link to it, or a copy where the file system has none, or is another one."""
    try:
        os.link(blob, path)
    except OSError:
        from shutil import copyfile

        copyfile(blob, path)


def is_whole(blob: str, size: int) -> bool:
    """Tell whether content is here as it was put; what was changed since is thrown away."""
    try:
        whole = is_as_put(blob, size)
    except FileNotFoundError:
        return False
    if whole:
        # The same time again: what has been asked for now is not unused.
        os.utime(blob, (BLOB_TIME, BLOB_TIME))
    else:
        os.unlink(blob)
    return whole


def is_as_put(content: str | int, size: int) -> bool:
    """Tell whether a file, by its path or as it is open, is content that nobody has changed since it was put here."""
    found = os.stat(content)
    return (found.st_size, int(found.st_mtime)) == (size, BLOB_TIME)


def prune(folder: str, before: float) -> None:
    """Throw away content that no run has a link to, and that none has asked for since this time."""
    for entry in os.scandir(folder):
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_nlink == 1 and found.st_ctime < before:
                os.unlink(entry.path)
        except OSError:
            continue  # Another run's, or gone already.
