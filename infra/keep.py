"""Keep: after what, and until when, the machine of a call that has ended stays up for the next one."""

from __future__ import annotations

from dayfly.errors import SpecError
from dayfly.infra.units import human_seconds, seconds, shown

ON_FAILURE, ALWAYS = "on-failure", "always"


def checked(value: object) -> float | str | None:
    """`keep` as a Spec holds it: None, seconds, "on-failure" or "always".

    Raises:
        SpecError: it is none of these.
    """
    if value is None or (isinstance(value, str) and value in (ON_FAILURE, ALWAYS)):
        return value
    try:
        return seconds(value, "keep")  # type: ignore[arg-type]  # what is no duration is refused there
    except SpecError:
        raise SpecError(
            f'keep={shown(value)} must be a duration of ten years at most, "10m", or "on-failure", or "always"; leave it'
            " out to have the machine destroyed after each call"
        ) from None


def until(keep: float | str | None, *, now: float, deadline: float, failed: bool) -> float | None:
    """Unix time until which a machine stays whose call ends now; None where it goes.

    Args:
        keep: as `checked` gives it.
        now: unix time.
        deadline: unix time at which the machine ends whatever happens.
        failed: whether the call has.
    """
    if keep is None or (keep == ON_FAILURE and not failed):
        return None
    end = deadline if isinstance(keep, str) else min(deadline, now + keep)
    return end if end > now else None


def described(keep: float | str) -> str:
    """When and how long, in words."""
    if keep == ALWAYS:
        return "after each call until its deadline"
    if keep == ON_FAILURE:
        return "after a call that fails, until its deadline"
    return f"{human_seconds(float(keep))} after each call"


def longest_s(keep: float | str | None, runtime_s: float) -> float:
    """Seconds that it can stay at most after one call.

    Args:
        keep: as `checked` gives it.
        runtime_s: how long the machine may live.
    """
    if keep is None:
        return 0.0
    return runtime_s if isinstance(keep, str) else min(keep, runtime_s)
