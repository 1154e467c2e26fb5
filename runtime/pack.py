"""Pack: many small contents that travel as one stream, and only those that are not there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dayfly.errors import RunFailed
from dayfly.runtime.ssh.link import Link

_SMALL_BYTES = 256 << 10
_PACK_BYTES, _PACK_FILES = 1 << 20, 500
_ASKED = 50_000


class Pack:
    """Files by the SHA-256 of what is in them.

    Attributes:
        large: those the machine has not, and that are worth a transfer of their own; known once `send` is through.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self.large: dict[str, Path] = {}

    def send(self, link: Link, heard: Callable[[], None]) -> None:
        """Bring the small ones that the machine has not; again, on another link, where this one breaks.

        Args:
            link: the way.
            heard: called whenever the machine has taken some in.

        Raises:
            Disconnected: the link broke; some of them are there.
            AgentRefused: the machine cannot take them, or one is another than its digest says.
            RunFailed: a file is gone.
        """
        self.large = {}
        # None is waited for before the last is sent, so that the line is never empty.
        answers = [link.send(*pack) for pack in self._packs(self._missing(link))]
        for answer in answers:
            answer()
            heard()

    def _missing(self, link: Link) -> list[str]:
        missing: list[str] = []
        for start in range(0, len(self._files), _ASKED):
            asked = list(itertools.islice(self._files, start, start + _ASKED))
            answer = link.ask({"op": "missing"}, bytes.fromhex("".join(asked)))
            missing += [asked[place] for place in answer["missing"]]
        return missing

    def _packs(self, digests: Iterable[str]) -> Iterator[tuple[dict[str, Any], bytes]]:
        """As many in each as fill a frame that the machine is soon through with."""
        sizes: dict[str, int] = {}
        body = bytearray()
        for digest in digests:
            content = self._read(digest)
            if content is None:
                continue
            sizes[digest] = len(content)
            body += content
            if len(body) >= _PACK_BYTES or len(sizes) == _PACK_FILES:
                yield {"op": "pack", "sizes": sizes}, bytes(body)
                sizes, body = {}, bytearray()
        if sizes:
            yield {"op": "pack", "sizes": sizes}, bytes(body)

    def _read(self, digest: str) -> bytes | None:
        path = self._files[digest]
        try:
            with path.open("rb", buffering=0) as file:
                content = file.read(_SMALL_BYTES + 1)
        except OSError as error:
            raise RunFailed(f"{path} cannot be read any more: {error.strerror}") from error
        if len(content) <= _SMALL_BYTES:
            return content
        self.large[digest] = path
        return None
