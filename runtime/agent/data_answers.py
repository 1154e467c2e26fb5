"""Data: content by digest, many at a time, and folders of it."""

from __future__ import annotations

import os
import time

from .blobs import BLOB_MODE, BLOB_UNUSED_S, is_whole, prune
from .files import home_folder, remove_tree
from .frames import FRAME_BYTES_MAX
from .json_text import loads
from .packing import unpack
from .refusal import Refusal
from .transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .store import Store


def data_folder(run_id: str) -> str:
    """Where the folders of a run's data are."""
    return os.path.join(home_folder(), f"data-{run_id}")


class DataAnswers:
    """What of a run's data is here, and the folders that are made of it."""

    def __init__(self, run_id: str, store: Store) -> None:
        self._run_id, self._store = run_id, store

    def on_data_have(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Tell how much is here of each [digest, size], and how much room is left; -1 of an empty one that is not here."""
        # Looked at by name first: most of many small files are new to a machine, and each look at one costs a call.
        folder = os.path.dirname(self._store.path(""))
        names = set(os.listdir(folder))
        have = []
        for digest, size in loads(body):
            part = os.path.basename(self._store.part(digest))
            if digest in names and is_whole(os.path.join(folder, digest), size):
                have.append(size)
            else:
                there = Transfer.there(os.path.join(folder, part)) if part in names else 0
                have.append(min(there, size - 1))
        room = os.statvfs(folder)
        return {"have": have, "free": room.f_bavail * room.f_frsize}

    def on_data_pack(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Take several contents of [digest, size], one behind the other in the frame, which may be packed as a whole."""
        if "codec" in request:
            try:
                body = unpack(request["codec"], body, min(request["plain"], FRAME_BYTES_MAX))
            except ValueError:
                raise Refusal("digest", "what arrived is not what was sent") from None
        self._store.take_all(request["blobs"], memoryview(body))
        return {}

    def on_data_tree(self, request: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Make a folder of content that is here, once for a run, and give its path; its list is content, too."""
        base = data_folder(self._run_id)
        place = os.path.join(base, os.path.basename(request["key"]))
        told = self._store.listing(request["list"])
        if not os.path.isdir(place):
            os.makedirs(base, 0o700, exist_ok=True)
            aside = f"{place}.{os.getpid()}.{time.time_ns()}"
            os.mkdir(aside, 0o700)
            for path, digest, size, mode in told["entries"]:
                self._place(os.path.join(aside, path), digest, size, mode)
            try:
                os.rename(aside, place)
            except OSError:
                remove_tree(aside)  # Another session was first.
            prune(self._store.folder, time.time() - BLOB_UNUSED_S)
        return {"path": os.path.join(place, told["name"])}

    def _place(self, path: str, digest: str, size: int, mode: int) -> None:
        if not digest:
            os.makedirs(path, 0o700, exist_ok=True)
            return
        blob = self._store.whole(digest, size)
        if not mode & 0o100:
            try:
                os.link(blob, path)
                return
            except OSError:
                pass  # Another file system, or one that has no links.
        from shutil import copyfile

        copyfile(blob, path)
        os.chmod(path, BLOB_MODE | (mode & 0o100))
