"""The ladder of a Spec: the Offers of all its providers, in the order in which they are to be tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dayfly.errors import ConfigurationError, NoCapacity, SpecError
from dayfly.infra import cost, providers, rungs
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
    """The Offers of every provider named, in that order, those of one provider cheapest first.

    Args:
        spec: what is asked for.
        note: told why one of several providers has none.
        to_run: False for a plan alone: what a provider lacks on this computer does not matter yet.
        live: False for the catalog's prices, whatever could be asked.

    Raises:
        SpecError: none can satisfy the Spec.
        BudgetExceeded: none does at `max_price`, or for as long as a minute at `max_cost`.
        NoCapacity: one could, and has no such machine now.
        ConfigurationError: a provider lacks something on this computer; names its fix.
    """
    rungs.check_host(spec)
    offers: list[Offer] = []
    refusals: list[SpecError | NoCapacity] = []
    for name in spec.providers:
        provider = providers.load(name)
        missing = provider.preflight() if to_run else ()
        if missing:
            raise ConfigurationError("; ".join(missing))
        try:
            offers += rungs.of(provider, spec, live=live)
        except (SpecError, NoCapacity) as refusal:
            refusals.append(refusal)
    if not offers:
        raise _refused(spec, refusals)
    for reason in refusals:
        note(f"not in the ladder: {reason}")
    offers = cost.within_price(spec, offers)
    for offer in offers:
        cost.check_grace(spec, offer)
        idle_floor.check_offer(spec, offer)
    return tuple(offers)


def _refused(spec: Spec, refusals: Sequence[SpecError | NoCapacity]) -> SpecError | NoCapacity:
    if len(refusals) == 1:
        return refusals[0]
    said = "; ".join(str(refusal) for refusal in refusals)
    if any(isinstance(refusal, NoCapacity) for refusal in refusals):
        return NoCapacity(said)
    return SpecError(said or f"nothing that {', '.join(spec.providers)} offers satisfies {spec}")
