"""LocalTree: a file or folder of this computer as content by digest, and a list that makes it again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from dayfly.errors import DataFailed, SpecError
from dayfly.runtime.ignore import Ignore

# The coarsest clock of a file system that is met in practice.
_TICK_NS = 2 * 10**9


@dataclass(frozen=True)
class Blob:
    """One content: where it lies here, and how long it is."""

    digest: str
    path: Path
    size: int


@dataclass(frozen=True)
class _Found:
    path: str
    place: Path
    size: int
    mode: int
    modified_ns: int
    inode: int


class LocalTree:
    """What lies at one place; links are followed, and what is no file or folder is left out.

    Lifecycle: constructing looks at names and sizes, `begin` has the contents digested in a thread, `blobs` waits for that.

    Args:
        whole: nothing stays here for its name, links stay links, and what is made from the list has the times from here.

    Attributes:
        source: the file or folder.
        size: bytes of all files.
        count: of files.
        left_out: why something stays here, by its path.
    """

    def __init__(self, source: Path, *, whole: bool = False) -> None:
        self.source, self._whole = source, whole
        self.left_out: dict[str, str] = {}
        self._folders: list[str] = []
        self._links: list[tuple[str, str]] = []
        self._files: list[_Found] = []
        try:
            if source.is_dir():
                self._look(source)
            else:
                self._files.append(_found(source.name, source))
        except OSError as error:
            raise SpecError(f"Data({str(source)!r}) cannot be read: {error}") from error
        self._check_readable()
        self.size = sum(file.size for file in self._files)
        self.count = len(self._files)
        self._digested: Future[list[str]] = Future()
        self._begun = threading.Lock()

    def _look(self, source: Path) -> None:
        self._folders.append(source.name)
        ignore = None if self._whole else Ignore.of(source)
        for path, place in _walk(source, ignore, self.left_out):
            if self._whole and place.is_symlink():
                self._links.append((path, str(place.readlink())))
            elif place.is_dir():
                self._folders.append(path)
            elif stat.S_ISREG((status := place.stat()).st_mode):
                self._files.append(_found(path, place))
            else:
                self.left_out[path] = f"it is no file ({stat.filemode(status.st_mode)})"

    def _check_readable(self) -> None:
        """Refuses what would fail only when it is digested, while a machine is paid for."""
        if self._whole:
            return  # No argument of anybody's: such a folder is sent to a machine that is there already.
        closed = [file for file in self._files if not os.access(file.place, os.R_OK)]
        if not closed:
            return
        first, more = closed[0].place, f" (and {len(closed) - 1} more)" if closed[1:] else ""
        leave_out = ", or leave it out by a .dayflyignore in the folder" if self._folders else ""
        raise SpecError(
            f"Data({str(self.source)!r}): {str(first)!r}{more} may not be read by this user (its mode is"
            f" {stat.filemode(closed[0].mode)}): change that{leave_out}"
        )

    def likeness(self, now_ns: int | None = None) -> object:
        """What is the same as long as nothing was changed here, found without reading a file.

        None where a file is so new that it could be changed once more within the same tick of the clock.
        """
        youngest = max((file.modified_ns for file in self._files), default=0)
        if (time.time_ns() if now_ns is None else now_ns) - youngest < _TICK_NS:
            return None
        seen = [(f.path, f.size, f.mode, f.modified_ns, f.inode) for f in self._files]
        return seen, list(self._folders), list(self._links), sorted(self.left_out)

    def begin(self) -> None:
        """Digests all of it in the background; more than once is the same as once."""
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._digest, name="dayfly-digest", daemon=True).start()

    def _digest(self) -> None:
        try:
            self._digested.set_result([_digest_of(file) for file in self._files])
        except BaseException as error:  # noqa: BLE001 - whoever waits for it must learn of it
            self._digested.set_exception(error)

    def blobs(self) -> list[Blob]:
        """Every content once.

        Raises:
            DataFailed: a file was changed or went while it was read.
        """
        self.begin()
        pairs = zip(self._digested.result(), self._files, strict=True)
        return list(
            {digest: Blob(digest, file.place, file.size) for digest, file in pairs}.values()
        )

    def listing(self) -> bytes:
        """What the machine makes the folder from; the same for the same content at any place."""
        self.begin()
        pairs = zip(self._digested.result(), self._files, strict=True)
        entries: list[list[object]] = [[path, "", 0, 0] for path in self._folders]
        entries += [[file.path, digest, file.size, file.mode & 0o100] for digest, file in pairs]
        told = {"name": self.source.name, "entries": entries, "links": self._links}
        if self._whole:
            told["times"] = self._times()
        return json.dumps(told).encode()

    def _times(self) -> list[tuple[str, int]]:
        """When each file and folder was changed last, in nanoseconds of unix time."""
        above = self.source.parent
        folders = [(path, (above / path).stat().st_mtime_ns) for path in self._folders]
        return [(file.path, file.modified_ns) for file in self._files] + folders


def _found(path: str, place: Path) -> _Found:
    status = place.stat()
    return _Found(path, place, status.st_size, status.st_mode, status.st_mtime_ns, status.st_ino)


def _walk(
    source: Path, ignore: Ignore | None, left_out: dict[str, str]
) -> Iterator[tuple[str, Path]]:
    """Every entry with its path from the folder above, a folder before what it holds."""
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(source, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        status = folder.stat()
        above |= {(status.st_dev, status.st_ino)}
        for place in sorted(folder.iterdir()):
            path = place.relative_to(source.parent).as_posix()
            if ignore is None and place.is_symlink():
                yield path, place
                continue
            is_folder = place.is_dir()
            reason = ignore.reason(place, folder=is_folder) if ignore else ""
            reason = reason or _unfit(place, above)
            if reason:
                left_out[path] = reason
                continue
            yield path, place
            if is_folder:
                waiting.append((place, above))


def _unfit(place: Path, above: frozenset[tuple[int, int]]) -> str:
    try:
        status = place.stat()
    except FileNotFoundError:
        return "it is a link to nothing"
    if (status.st_dev, status.st_ino) in above:
        return "it is a link to a folder above it"
    return ""


def _digest_of(file: _Found) -> str:
    try:
        with file.place.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = os.fstat(content.fileno()).st_size
    except OSError as error:
        raise DataFailed(f"{file.place} cannot be read: {error}") from error
    if size != file.size:
        raise DataFailed(f"{file.place} was changed while it was read")
    return digest
