"""Replaces the host key that came with a machine's user_data: whoever may read that could pose as the machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dayfly.errors import DayflyError, HostKeyNotRotated, JobStopped

if TYPE_CHECKING:
    from dayfly.runtime.session import Session

_WITHIN_S = 60.0


def rotate(
    session: Session,
    record: Callable[..., Any],
    *,
    within_s: float = _WITHIN_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Has the machine make a host key that never leaves it, and pins that one; other machines are left as they are.

    Each step may be the client's last: the new public half is in the journal before the machine shows it, and until
    the journal says that it is in use either key is accepted.

    Args:
        session: over the bootstrap key, or over the key that an earlier client had begun to replace it with.
        record: journals an event, and returns when it is on the disk.
        within_s: for all of it.
        clock: a monotonic clock.

    Raises:
        HostKeyNotRotated: the machine has no key of its own within the bound.
    """
    machine = session.machine
    if not machine.host_key_bootstrap:
        return
    until = clock() + within_s

    def left_s() -> float:
        return max(1.0, until - clock())

    with _unfit(machine.id):
        offered = machine.host_key_offered
        if not offered or session.host_key != offered:
            offered = session.offer_host_key(left_s())
            record("host_key_offered", host_key=offered)
            session.install_host_key(offered, left_s())
        session.repin(offered, left_s())
        record("host_key_rotated", host_key=offered)


@contextlib.contextmanager
def _unfit(machine_id: str) -> Iterator[None]:
    try:
        yield
    except JobStopped:
        raise
    except DayflyError as error:
        raise HostKeyNotRotated(
            f"machine {machine_id} still has the host key that it was started with: {error}",
            check="host key",
            found=str(error),
        ) from error
