"""Market: what machines there are, everywhere, and for how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dayfly.errors import DayflyError, SpecError
from dayfly.infra import catalog, huggingface_prices, providers
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.infra.units import suggestion
from dayfly.runtime.verb import act_aside


@act_aside
def offers(
    *,
    gpu: str | Sequence[str] | None = None,
    cores: int | None = None,
    memory: int | str | None = None,
    provider: str | Sequence[str] | None = None,
    region: str | None = None,
    max_price: float | None = None,
    spot: bool | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Offer]:
    """Priced machines of all providers, cheapest first.

    Prices are those of just now where a provider's API tells them and its credentials are there, and the catalog's
    otherwise; each Offer says which, and of when.

    Args:
        gpu: as in a Spec; machines with more GPUs are listed too.
        cores: virtual cores at least.
        memory: memory at least, "32GB" or bytes.
        provider: one or several; None is all.
        region: the provider's own word for one; machines that are sold everywhere are listed too.
        max_price: dollars an hour.
        spot: True for those only that the provider may take back, False for those only that it may not.
        note: told why a provider's own prices could not be had.

    Raises:
        SpecError: an argument cannot be; names it.
    """
    wanted = Spec(gpu=gpu, cores=cores, memory=memory, max_price=max_price)
    found = [
        offer
        for name in _names(provider)
        for offer in _price_list(name, note)
        if _satisfies(offer, wanted)
        and (region is None or offer.region in (region, catalog.ANY_REGION))
        and spot in (None, offer.spot)
    ]
    return sorted(found, key=lambda o: (o.usd_per_hour, o.provider, o.instance_type, o.region))


def usable(provider: str) -> bool:
    """Whether machines can be made there, and not only prices looked at."""
    return provider in providers.names()


def _names(provider: str | Sequence[str] | None) -> tuple[str, ...]:
    known = tuple(dict.fromkeys((*providers.names(), *catalog.providers())))
    if provider is None:
        return known
    names = (provider,) if isinstance(provider, str) else tuple(provider)
    for name in names:
        if name not in known:
            raise SpecError(f"unknown provider {name!r}; {suggestion(str(name), known)}")
    return names


def _price_list(name: str, note: Callable[[str], None]) -> Sequence[Offer]:
    try:
        if usable(name):
            return providers.load(name).price_list()
        if name == huggingface_prices.PROVIDER:
            return huggingface_prices.price_list()
        return catalog.price_list(name)
    except DayflyError as error:
        note(f"{name}: the catalog's prices, since its own cannot be had: {error}")
        return catalog.price_list(name)


def _satisfies(offer: Offer, wanted: Spec) -> bool:
    kinds = wanted.gpus
    fits = not kinds or any(kind.is_sold_with(offer) for kind in kinds)
    large = offer.cores >= (wanted.cores or 0) and offer.memory_bytes >= wanted.memory_bytes
    cheap = wanted.max_price is None or offer.usd_per_hour <= wanted.max_price
    return fits and large and cheap
