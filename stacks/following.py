"""Following: looks after machines whose end was asked for while the engine takes down the rest, so that their bill ends when they do.

The engine sees their end itself, as a rule within seconds. It may have to wait for its turn among many, or for a lock, and
what has ended by then would be billed for as long.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from dayfly.errors import DayflyError
from dayfly.infra import creations
from dayfly.infra.found import GONE
from dayfly.infra.providers.base import Provider

# Parts of a billing increment. An engine that is not kept waiting has seen the end before the first look, which would take a
# turn at the API from it; and from look to look a bill grows by less than one increment.
_FIRST, _LONGEST = 1 / 6, 1 / 2


@contextlib.contextmanager
def following(provider: Provider, directory: Path, ids: Collection[str]) -> Iterator[None]:
    """Looks at machines in a thread, and records when each is gone, for as long as a `with` block lasts.

    There is nothing to look at where the provider keeps no record. Leaving does not wait for a look under way.

    Args:
        provider: who is asked.
        directory: the run's, with the record.
        ids: of the machines whose end was asked for.
    """
    over = threading.Event()
    if ids and provider.keeps_creations:
        given = (provider, directory, set(ids), over)
        threading.Thread(target=_follow, args=given, name="following", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _follow(provider: Provider, directory: Path, left: set[str], over: threading.Event) -> None:
    share = _FIRST
    while left and not over.wait(share * provider.limits.billing_increment_s):
        share = min(share * 2, _LONGEST)
        for id in sorted(left):
            # Whoever closes the run finds out, and says, what does not work here.
            with contextlib.suppress(DayflyError, OSError):
                if provider.instance_state(id) in GONE and not over.is_set():
                    creations.deleted(directory, id)
                    left.remove(id)
