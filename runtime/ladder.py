"""The ladder of a Spec: the Offers of all its providers, in the order in which they are to be tried."""

from __future__ import annotations

from collections.abc import Callable

from dayfly.infra import rungs
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.runtime import idle_floor


def ladder(
    spec: Spec,
    note: Callable[[str], None] = lambda _: None,
    *,
    to_run: bool = True,
    live: bool = True,
) -> tuple[Offer, ...]:
    """`rungs.of_all`, for a function that runs there.

    Raises:
        SpecError: as there, or a function could not keep `min_gpu_utilization=` on one of them.
        BudgetExceeded, NoCapacity, ConfigurationError: as there.
    """
    offers = rungs.of_all(spec, note, to_run=to_run, live=live)
    for offer in offers:
        idle_floor.check_offer(spec, offer)
    return offers


def with_left_out(
    spec: Spec, note: Callable[[str], None], *, to_run: bool, live: bool
) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
    """The ladder, and why a provider that was named has no rung in it, of which `note` is told at once; raises as `ladder`."""
    left_out: list[str] = []

    def leave_out(reason: str) -> None:
        left_out.append(reason)
        note(f"not in the ladder: {reason}")

    return ladder(spec, leave_out, to_run=to_run, live=live), tuple(left_out)
