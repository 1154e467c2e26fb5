"""WarmData: what the Data of a session's calls is on its machine, brought there once for each content."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dayfly.runtime import cargo
from dayfly.runtime.data import Data
from dayfly.runtime.display import Display
from dayfly.runtime.local_tree import LocalTree
from dayfly.runtime.tally import Tally

if TYPE_CHECKING:
    from dayfly.runtime.session import Session


@dataclass(frozen=True)
class _There:
    """Where a source is on the machine as it was when this was its likeness."""

    likeness: object
    path: str


class WarmData:
    """The Data of one session, shared by all its calls.

    What lies here is looked at again for every call, by the times and sizes of its files: where those have changed, what is
    new of it is sent, and that call gets a path of its own. What lies behind a URL is fetched by the first call that has
    it, and is what it then was for the others.

    Args:
        session: with the machine.
        display: where is shown what stays here of a folder, what takes long to send, and how far that has come.
    """

    def __init__(self, session: Session, display: Display | None = None) -> None:
        self._session, self._display = session, display or Display.silent()
        self._there: dict[str, _There] = {}
        # One for each source: nobody waits for what another call has to send.
        self._bringing: dict[str, threading.Lock] = {}

    def bring(self, items: Mapping[str, Data]) -> tuple[dict[str, Any], int]:
        """Brings what the machine has not got of them.

        Returns:
            What is said of them to whoever makes paths of them there, and how many bytes were sent.

        Raises:
            DataFailed: a file has changed meanwhile, or the machine has no room.
            SpecError: one cannot be read any more.
        """
        if not items:
            return {}, 0
        sent, paths = 0, {}
        for key, data in items.items():
            if not data.scheme:
                with self._bringing.setdefault(key, threading.Lock()):
                    sent += self._bring(key, LocalTree(Path(data.source)))
                    paths[key] = self._there[key].path
        store = f"{self._session.machine.cache_dir}/urls"
        return {"data": {"store": store, "shared": True, "paths": paths}}, sent

    def _bring(self, key: str, tree: LocalTree) -> int:
        likeness, known = tree.likeness(), self._there.get(key)
        if known is not None and likeness is not None and known.likeness == likeness:
            return 0
        for warning in cargo.warnings_of(tree) if known is None else ():
            self._display.warning(warning)
        tally = Tally(self._display, "data", unit="bytes")

        def progress(have: int, total: int) -> None:
            tally.total = total
            tally.count(have)

        try:
            sent = cargo.send(self._session, tree.blobs(), progress)
        finally:
            tally.end()
        listing = self._session.put(tree.listing())
        # By its content, so that a changed folder is another one: a call may still be reading the former.
        self._there[key] = _There(likeness, self._session.make_tree(listing[:32], listing))
        return sent
