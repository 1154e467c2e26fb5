"""Whether a file system of fsspec has credentials that are taken: asked on the machine by whatever reads or writes there.

A call that has Data brings it by value, so it imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check_credentials(system: Any) -> None:
    """Ask once whether Google takes the credentials: its file system goes on for half a minute with what was refused.

    Raises:
        PermissionError: with what was said of them.
    """
    refresh = getattr(getattr(system, "credentials", None), "maybe_refresh", None)
    if refresh is None:
        return
    try:
        refresh()
    except Exception as error:
        why = error.__cause__
        if why is None or getattr(why, "retryable", True):
            return  # Not refused, but not to be had just now; the file system itself tries that again.
        raise PermissionError(f"the credentials are refused: {why.args[0]}") from error
