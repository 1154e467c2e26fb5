"""Rungs: what each provider puts on the ladder of a Spec, after a look at the fields that not every provider knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dayfly.errors import ConfigurationError, NoCapacity, SpecError
from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import Provider
from dayfly.infra.spec import PREFER_SPOT, Spec

# Not `host`, which is for one rung of a ladder and says nothing of the others.
_NOT_FOR_ALL = ("spot", "image", "file_systems")


def of_all(
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
    check_host(spec)
    offers: list[Offer] = []
    refusals: list[SpecError | NoCapacity] = []
    for name in spec.providers:
        provider = providers.load(name)
        missing = provider.preflight() if to_run else ()
        if missing:
            raise ConfigurationError("; ".join(missing))
        try:
            offers += of(provider, spec, live=live)
        except (SpecError, NoCapacity) as refusal:
            refusals.append(refusal)
    if not offers:
        raise _refused(spec, refusals)
    for reason in refusals:
        note(str(reason))
    offers = cost.within_price(spec, offers)
    for offer in offers:
        cost.check_grace(spec, offer)
    return tuple(offers)


def of(provider: Provider, spec: Spec, *, live: bool = True) -> Sequence[Offer]:
    """Priced candidates of one provider, in the order in which they are to be tried.

    Args:
        provider: whose.
        spec: what is asked for.
        live: False for those of the catalog alone.

    Raises:
        SpecError: the provider knows nothing of a field that is given, or has nothing that satisfies the Spec.
        NoCapacity: it could, and has no such machine now.
    """
    for name in _NOT_FOR_ALL:
        value = getattr(spec, name)
        if value and value != PREFER_SPOT and name not in provider.takes:
            raise SpecError(
                f'{name}={value!r}: provider="{provider.name}" knows nothing of it; leave it out, or take'
                f" {_taking(name)}"
            )
    return provider.offers(spec) if live else provider.catalog_offers(spec)


def check_host(spec: Spec) -> None:
    """Refuses a host that no provider of the Spec's goes to, and a Spec that one which goes to a host can do nothing with: the
    next rung of a ladder, which is paid for, is no answer to a mistake.

    Raises:
        SpecError: it is one of these.
    """
    going_there = [p for p in map(providers.load, spec.providers) if "host" in p.takes]
    if spec.host and not going_there:
        raise SpecError(
            f"host={spec.host!r}: {', '.join(spec.providers)} makes machines of its own; leave it out, or take"
            f" {_taking('host')}"
        )
    for provider in going_there:
        provider.check_host(spec)


def _taking(field: str) -> str:
    able = [name for name in providers.names() if field in providers.load(name).takes]
    return " or ".join(f'provider="{name}"' for name in able) or "none of this version's"


def _refused(spec: Spec, refusals: Sequence[SpecError | NoCapacity]) -> SpecError | NoCapacity:
    if len(refusals) == 1:
        return refusals[0]
    said = "; ".join(str(refusal) for refusal in refusals)
    if any(isinstance(refusal, NoCapacity) for refusal in refusals):
        return NoCapacity(said)
    return SpecError(said or f"nothing that {', '.join(spec.providers)} offers satisfies {spec}")
