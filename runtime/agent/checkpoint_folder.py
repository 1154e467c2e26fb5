"""The job's folder for checkpoints, while its function may be writing into it."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from .digests import new_sha256
from .output_folder import OutputFolder
from .snapshot import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# A file that was changed in so short a time before it was read may be changed again without its time telling so.
_RECENT_S = 2.0
_READ_BYTES = 1 << 20


class Changing(Exception):
    """A file was written while it was read."""


class CheckpointFolder:
    """What is in it, and the digests of what has not changed since they were taken."""

    def __init__(self, path: str) -> None:
        self._path = self._shown = path
        # Beside that of a client, which may look at the same job.
        self._snapshot = Snapshot(path, path + ".kept")
        self._digests: dict[str, tuple[int, int, str]] = {}

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """While it lasts all this tells of the folder is of one moment, but for files that are written in place.

        Where that cannot be had it is the folder as it is when it is looked at.
        """
        try:
            taken = self._snapshot.take()
        except OSError:
            taken = False
        if taken:
            self._shown = self._path + ".kept"
        try:
            yield
        finally:
            self._shown = self._path
            self._snapshot.drop()

    def entries(self) -> list[Any]:
        """Give [path, kind, size, mode, time in ns, target] of all that can be kept.

        A pipe or a socket cannot, and a link out of the folder would lead elsewhere on another machine. What is not kept of
        folders and links is 0: where the folder stands still they are others.
        """
        return [
            _kept(entry)
            for entry in OutputFolder(self._shown).entries()
            if entry[1] in ("file", "folder") or (entry[1] == "link" and stays(entry[0], entry[5]))
        ]

    def place(self, path: str) -> str:
        """Give the whole path."""
        return os.path.join(self._shown, path)

    def digest(self, entry: list[Any]) -> str:
        """Give the SHA-256 of a file that was listed.

        Raises:
            Changing: it is gone.
        """
        path, _, size, _, modified_ns, _ = entry
        known = self._digests.get(path)
        if known is not None and known[:2] == (size, modified_ns):
            return known[2]
        began = time.time()
        digest = self.digest_now(path)
        if began - modified_ns / 1e9 > _RECENT_S:
            self._digests[path] = (size, modified_ns, digest)
        return digest

    def digest_now(self, path: str) -> str:
        """Give that of a file as it is, whatever was known of it."""
        try:
            return digest_of(self.place(path))
        except FileNotFoundError:
            raise Changing from None


def _kept(entry: list[Any]) -> list[Any]:
    path, kind, _, _, modified_ns, target = entry
    if kind == "file":
        return entry
    return [path, kind, 0, 0, modified_ns if kind == "folder" else 0, target]


def stays(path: str, target: str) -> bool:
    """Tell whether a link at `path` leads to a place in the same folder."""
    place = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return bool(target) and not os.path.isabs(target) and place.split("/")[0] != ".."


def digest_of(path: str) -> str:
    """Give the SHA-256 of a file, which need not fit into memory."""
    digest = new_sha256()
    with open(path, "rb") as file:
        while True:
            data = file.read(_READ_BYTES)
            if not data:
                return str(digest.hexdigest())
            digest.update(data)
