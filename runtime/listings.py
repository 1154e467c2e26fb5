"""What the rungs of a ladder would create: from the real engine where it can be asked, from the recorder where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dayfly.errors import ProvisionFailed
from dayfly.infra import providers
from dayfly.infra.listing import Listing
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import Provider
from dayfly.infra.spec import Spec
from dayfly.infra.vendor import VendorProvider
from dayfly.runtime import listing_cache
from dayfly.runtime.context import Context
from dayfly.stacks.engine import Engine

# A preview is three processes, each with a second of work.
_AT_ONCE = 2
_NOT_ASKED = "a fast plan asks nobody, and nobody has listed them before; any other plan does"


def of_ladder(
    context: Context,
    spec: Spec,
    offers: Sequence[Offer],
    note: Callable[[str], None],
    *,
    all_rungs: bool = False,
) -> list[Listing]:
    """The listing of each rung.

    The engine lists the first one, or all of them; of the others only the first one of each further provider is listed, by
    the recorder, beside the engine. It also lists a lower rung whose program the engine refuses.

    Raises:
        ProvisionFailed: the engine refuses the program of the first one.
        EngineMissing: there is no engine.
    """
    # A plan that asks nobody has no use for what this loads.
    from concurrent.futures import ThreadPoolExecutor

    engine = context.engine(note)
    wanted = range(len(offers)) if all_rungs else _first_of_each(offers)
    reasons = {n: reason_against(providers.load(offers[n].provider), engine) for n in wanted}
    by_engine = [n for n in wanted if not reasons[n] and (all_rungs or n == 0)]
    by_recorder = [n for n in wanted if n not in by_engine]
    found = [Listing()] * len(offers)
    with ThreadPoolExecutor(_AT_ONCE + 1) as pool:
        recording = pool.submit(recorded, context, spec, [offers[n] for n in by_recorder])
        previews = [
            (n, pool.submit(_previewed, context, engine, spec, offers[n])) for n in by_engine
        ]
        for number, preview in previews:
            try:
                found[number] = preview.result()
            except ProvisionFailed as refusal:
                if number == 0:
                    raise
                (listing,) = recorded(context, spec, [offers[number]])
                found[number] = replace(listing, why=str(refusal))
        for number, listing in zip(by_recorder, recording.result(), strict=True):
            found[number] = replace(listing, why=reasons[number] or listing.why)
    return found


def _previewed(context: Context, engine: Engine, spec: Spec, offer: Offer) -> Listing:
    from dayfly.runtime import preview

    found = Listing.of(preview.resources(context, engine, spec, offer), "engine")
    listing_cache.write(context.workspace.home, spec, offer, found)
    return found


def kept(context: Context, spec: Spec, offers: Sequence[Offer]) -> list[Listing]:
    """What is known of each rung without asking anybody."""
    home = context.workspace.home
    return [listing_cache.read(home, spec, offer) or Listing(why=_NOT_ASKED) for offer in offers]


def reason_against(provider: Provider, engine: Engine) -> str:
    """Why the engine cannot preview a provider's program, with what to do; "" where it can."""
    # A plan that asks nobody has no use for what this loads.
    from dayfly.stacks import plugins

    if not isinstance(provider, VendorProvider):
        return ""
    lacking = provider.preflight()
    if lacking:
        return "; ".join(lacking)
    plugin = plugins.of(provider)
    if plugin is None or plugins.find(plugin, engine) is not None:
        return ""
    return f"{plugin} is not there: `{plugin.command}` gets it, and so does the first run"


def recorded(context: Context, spec: Spec, offers: Sequence[Offer]) -> list[Listing]:
    """What each rung would create now, by the recorder: a policy of a run must not judge what once was."""
    if not offers:
        return []
    from dayfly.stacks import recorder

    found = recorder.listings(context.workspace, spec, offers)
    guessed = {name for name in {offer.provider for offer in offers} if _is_guess(name)}
    for offer, listing in zip(offers, found, strict=True):
        guess = offer.provider in guessed
        listing_cache.write(context.workspace.home, spec, offer, listing, guess=guess)
    return found


def _is_guess(name: str) -> bool:
    """Whether a program that looks at the account cannot."""
    provider = providers.load(name)
    return isinstance(provider, VendorProvider) and bool(provider.preflight())


def _first_of_each(offers: Sequence[Offer]) -> list[int]:
    """Of each provider the first rung, by its number."""
    first: dict[str, int] = {}
    for number, offer in enumerate(offers):
        first.setdefault(offer.provider, number)
    return list(first.values())
