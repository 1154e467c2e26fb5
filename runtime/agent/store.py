"""The content on this machine: by its digest, shared by this user's runs."""

from __future__ import annotations

import os

from .blobs import is_whole, place_blob
from .digests import digest_of
from .json_text import loads
from .refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class Store:
    """Where content lies by its digest, and what of it is here."""

    def __init__(self, cache: str, run_id: str) -> None:
        self.folder = os.path.join(cache, "blobs")
        self._run_id = run_id

    def path(self, digest: str) -> str:
        """Where content of that digest is, or belongs."""
        os.makedirs(self.folder, 0o700, exist_ok=True)
        return os.path.join(self.folder, os.path.basename(digest))

    def part(self, name: str) -> str:
        """Where content is while it is on its way; of this run only."""
        return f"{self.path(name)}.{self._run_id}.part"

    def take(self, digest: str, data: bytes) -> None:
        """Keep content that has come whole.

        Raises:
            Refusal: it has another digest.
        """
        if digest_of(data) != digest:
            raise Refusal("digest", "what arrived is not what was sent")
        blob = self.path(digest)
        if not is_whole(blob, len(data)):
            place_blob(blob, data)

    def take_all(self, blobs: Iterable[tuple[str, int]], data: memoryview) -> None:
        """Keep several contents that were asked about and are not here, by digest and size, one behind the other.

        Raises:
            Refusal: one has another digest.
        """
        # Looked for once: with thousands of small ones that takes as long as writing them.
        folder, place = os.path.dirname(self.path("")), 0
        for digest, size in blobs:
            content = data[place : place + size]
            if digest_of(content) != digest:
                raise Refusal("digest", "what arrived is not what was sent")
            place_blob(os.path.join(folder, os.path.basename(digest)), content)
            place += size

    def whole(self, digest: str, size: int) -> str:
        """Give the path of content that was put here before.

        Raises:
            Refusal: it has gone.
        """
        blob = self.path(digest)
        if not is_whole(blob, size):
            raise Refusal("data", f"content {digest} is not here any more")
        return blob

    def listing(self, digest: str) -> Any:
        """Read a list of files, which is content, too."""
        with open(self.path(digest), "rb") as file:
            return loads(file.read())
