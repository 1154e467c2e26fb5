"""What a run costs: the rate, the worst case and the bill."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dayfly.errors import BudgetExceeded, SpecError
from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import Limits
from dayfly.infra.spec import DEFAULT_GRACE_S, Spec
from dayfly.infra.units import human_seconds


def allowed_runtime_s(spec: Spec, offer: Offer) -> float:
    """Seconds that the machine may live: `max_runtime`, or less where `max_cost` pays for less.

    Raises:
        BudgetExceeded: `max_cost` does not pay for one minute of this Offer.
    """
    if spec.max_cost is None or offer.usd_per_hour * spec.nodes == 0:
        return spec.max_runtime_s
    paid_s = spec.max_cost / (offer.usd_per_hour * spec.nodes) * 3600
    if paid_s < 60:
        times = f"{spec.nodes} x " if spec.nodes > 1 else ""
        raise BudgetExceeded(
            f"max_cost=${spec.max_cost:g} pays for {paid_s:.0f} s of {times}{offer.instance_type} at"
            f" ${offer.usd_per_hour:g}/h; raise max_cost or choose a cheaper machine"
        )
    return min(spec.max_runtime_s, paid_s)


def within_price(spec: Spec, offers: Sequence[Offer]) -> list[Offer]:
    """The Offers that cost no more than `max_price` an hour, all machines of the run together.

    Raises:
        BudgetExceeded: each costs more; names the cheapest.
    """
    most = math.inf if spec.max_price is None else spec.max_price
    found = [offer for offer in offers if offer.usd_per_hour * spec.nodes <= most]
    if offers and not found:
        least = min(offers, key=lambda offer: offer.usd_per_hour)
        times = f"{spec.nodes} x " if spec.nodes > 1 else ""
        raise BudgetExceeded(
            f"max_price=${most:g}/h: the cheapest machine for the rest of what is asked for is {times}{least.instance_type} of"
            f" {least.provider} at ${least.usd_per_hour:g}/h; raise max_price, or ask for less"
        )
    return found


def check_grace(spec: Spec, offer: Offer) -> None:
    """Refuses a grace that leaves the function less than half of the time that `max_cost` pays for.

    Raises:
        SpecError: it does.
    """
    allowed_s = allowed_runtime_s(spec, offer)
    if spec.grace_s > max(DEFAULT_GRACE_S, allowed_s / 2):
        raise SpecError(
            f"grace={human_seconds(spec.grace_s)} is more than half of the {human_seconds(allowed_s)} of {offer.instance_type}"
            f" that max_cost=${spec.max_cost:g} pays for; write less, or raise max_cost"
        )


def worst_case_usd(spec: Spec, offer: Offer) -> float:
    """Dollars if every machine lives until its deadline, or as long as the provider bills at least."""
    least_s = providers.load(offer.provider).limits.billing_minimum_s
    lived_s = max(allowed_runtime_s(spec, offer), least_s)
    return offer.usd_per_hour * spec.nodes * lived_s / 3600


def billed_s(lived_s: float, limits: Limits) -> float:
    """Seconds that are billed for a machine that lived so long.

    Args:
        lived_s: how long.
        limits: of its provider: it is rounded up to the billing increment, and to the minimum.
    """
    increment_s = limits.billing_increment_s
    return max(math.ceil(lived_s / increment_s) * increment_s, limits.billing_minimum_s)


def billed_usd(usd_per_hour: float, lived_s: float, limits: Limits) -> float:
    """Dollars for a machine that lived so long; see `billed_s`."""
    return usd_per_hour * billed_s(lived_s, limits) / 3600
