"""Following: looks after machines whose end was asked for while the engine takes down the rest, so that their bill ends when they do.

The engine sees their end itself, as a rule within seconds. It may have to wait for its turn among many, or for a lock, and
what has ended by then would be billed for as long.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from dayfly.errors import DayflyError
from dayfly.infra import creations
from dayfly.infra.found import GONE
from dayfly.infra.providers.base import Provider

# Parts of a billing increment. An engine that is not kept waiting has seen the end before the first look, which would take a
# turn at the API from it; and from look to look a bill grows by less than one increment.
_FIRST, _LONGEST = 1 / 6, 1 / 2


class Following:
    """Looks at machines, and records when each is gone, for as long as a `with` block lasts.

    Lifecycle: entering starts a thread, where the provider keeps a record and there is a machine; leaving ends it, and does not
    wait for a look under way.

    Args:
        provider: who is asked.
        directory: the run's, with the record.
        ids: of the machines whose end was asked for.
    """

    def __init__(self, provider: Provider, directory: Path, ids: Iterable[str]) -> None:
        self._provider = provider
        self._directory = directory
        self._left = set(ids)
        self._increment_s = provider.limits.billing_increment_s
        self._ended = threading.Event()

    def __enter__(self) -> Following:
        if self._left and self._provider.keeps_creations:
            threading.Thread(target=self._follow, name="following", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _follow(self) -> None:
        share = _FIRST
        while self._left and not self._ended.wait(share * self._increment_s):
            share = min(share * 2, _LONGEST)
            for id in sorted(self._left):
                # Whoever closes the run finds out, and says, what does not work here.
                with contextlib.suppress(DayflyError, OSError):
                    self._look(id)

    def _look(self, id: str) -> None:
        if self._provider.instance_state(id) in GONE and not self._ended.is_set():
            creations.deleted(self._directory, id)
            self._left.remove(id)
