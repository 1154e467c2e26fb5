"""Hold: a call of the cloud's API that waits while a kill comes, so that the kill cannot miss its point."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from tests.emulators.lambda_cloud import Emulator, Fault
from tests.faults.lambda_world import World


@dataclass(frozen=True)
class Hold:
    """Which call.

    Attributes:
        op: the first one of this operation.
        kind: of fault: "hold" before it acts, "hold_answer" afterwards, "hold_drop" where it never does.
        late_s: it is let go at some moment of so long after the kill, in which others begin to close the run.
    """

    op: str
    kind: str
    late_s: float = 0.0


class Held:
    """One of them, in force.

    Lifecycle: `held` puts it into the cloud's script, and lets everything go at the end of its block.
    """

    def __init__(self, cloud: Emulator, hold: Hold) -> None:
        self._cloud, self._hold = cloud, hold
        self._later: threading.Timer | None = None
        cloud.add_faults([Fault.from_json({"op": hold.op, "kind": hold.kind, "at": 1})])

    def wait(self, timeout_s: float = 30.0) -> bool:
        """Returns when it is held; False where it was refused before it could be, as any call of too many is."""
        try:
            self._cloud.wait_held(timeout_s=timeout_s)
        except TimeoutError:
            return False
        return True

    def let_go(self, chance: random.Random) -> None:
        """Begins to; returns at once."""
        late_s = chance.uniform(0, self._hold.late_s)
        self._later = threading.Timer(late_s, self._cloud.clear_faults)
        self._later.start()

    def end(self) -> None:
        """Returns when nothing is held any more."""
        if self._later is not None:
            self._later.join()
        self._cloud.clear_faults()


@contextlib.contextmanager
def held(world: World | None, hold: Hold | None) -> Iterator[Held | None]:
    """A hold for as long as the block lasts; None where there is none."""
    if world is None or hold is None:
        yield None
        return
    made = Held(world.cloud, hold)
    try:
        yield made
    finally:
        made.end()
