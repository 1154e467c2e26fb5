"""What the function leaves in its output folder, as it is listed."""

from __future__ import annotations

import os

from .digests import new_sha256
from .frames import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class OutputFolder:
    """What a job has left for its client; only files, folders and links are told of as such."""

    BATCH = 500
    KINDS = ((0o100000, "file"), (0o040000, "folder"), (0o120000, "link"))

    def __init__(self, root: str) -> None:
        self._root = root

    def entries(self) -> Iterator[list[Any]]:
        """Give [path, kind, size, mode, time in ns, target] of all that is there, a folder before what it holds.

        Links are not followed. Bytes of a name that are no text stand in it as lone surrogates.
        """
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                names = sorted(os.listdir(os.path.join(self._root, folder)))
            except OSError as error:
                if folder:
                    yield [folder, "unreadable", 0, 0, 0, error.strerror]
                continue
            below = []
            for path in (os.path.join(folder, name) for name in names):
                entry = self._entry(path)
                if entry[1] == "folder":
                    below.append(path)
                yield entry
            waiting += reversed(below)

    def _entry(self, path: str) -> list[Any]:
        place = os.path.join(self._root, path)
        try:
            found = os.lstat(place)
            kind = dict(self.KINDS).get(found.st_mode & 0o170000, "special")
            target = os.readlink(place) if kind == "link" else ""
        except OSError as error:
            return [path, "unreadable", 0, 0, 0, error.strerror]
        return [path, kind, found.st_size, found.st_mode & 0o777, found.st_mtime_ns, target]

    def read(self, path: str, offset: int, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Give a file's bytes from `offset` to `size`; the last part tells the digest and size of all of it.

        Raises:
            ValueError: it cannot be read, with the reason.
        """
        try:
            # Without waiting: a pipe that has taken a file's place would wait for somebody to write to it.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(os.path.join(self._root, path), flags)
        except OSError as error:
            raise ValueError(error.strerror) from None
        try:
            yield from self._parts(descriptor, offset, size)
        except OSError as error:
            raise ValueError(error.strerror) from None
        finally:
            os.close(descriptor)

    @staticmethod
    def _parts(descriptor: int, offset: int, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
        if os.fstat(descriptor).st_mode & 0o170000 != 0o100000:
            raise ValueError("it is no file any more")
        digest, place = new_sha256(), 0
        while True:
            # What the client has is only digested.
            end = offset if place < offset else size
            data = os.pread(descriptor, min(CHUNK_BYTES, end - place), place)
            digest.update(data)
            place += len(data)
            if place >= size or not data:
                break
            if place > offset:
                yield {"offset": place - len(data)}, data
        if place < offset:
            raise ValueError("it has become shorter")
        last = data if place > offset else b""
        told = {"offset": place - len(last), "digest": digest.hexdigest(), "size": place}
        yield told, last
