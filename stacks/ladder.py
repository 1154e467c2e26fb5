"""Ladder: the Offers that are tried one after another until one has capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dayfly.errors import DayflyError, ProvisionFailed
from dayfly.infra import providers
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec


class Ladder:
    """Offers in the order in which they are tried; a refusal that names other regions changes it.

    Args:
        spec: what is asked for: a region that it names is never left.
        offers: the rungs, first choice first.
    """

    def __init__(self, spec: Spec, offers: Sequence[Offer]) -> None:
        self._spec = spec
        self._waiting = list(offers)
        self._known = {_place(offer) for offer in offers}
        self.refusals: list[str] = []

    def next(self) -> Offer | None:
        """The next rung, None when there is no more."""
        return self._waiting.pop(0) if self._waiting else None

    def refused(self, offer: Offer, failed: DayflyError) -> None:
        """Remembers why a rung was refused; the same machine in the regions that the refusal names comes next, and what the
        same quota holds for does not come at all."""
        way = " (spot)" if offer.spot else ""
        place = f"{offer.instance_type}{way} in {offer.provider}/{offer.region}"
        self.refusals.append(f"{place}: {failed}")
        provider = providers.load(offer.provider)
        if isinstance(failed, ProvisionFailed) and failed.kind == "quota":
            self._waiting = [
                other
                for other in self._waiting
                if other.provider != offer.provider
                or not provider.rules_out(str(failed), offer, other)
            ]
            return
        named = provider.regions_named(str(failed))
        elsewhere = [replace(offer, region=region) for region in named]
        waiting = {_place(o): o for o in self._waiting}
        # At its own price, which is another one in each zone for spot machines.
        first = [waiting[_place(o)] for o in elsewhere if _place(o) in waiting]
        if self._spec.region is None and not self._spec.file_systems and not offer.spot:
            # The listing did not have them; the refusal is newer.
            known = self._known - waiting.keys()
            first = [waiting.get(_place(o), o) for o in elsewhere if _place(o) not in known]
        self._known |= {_place(o) for o in first}
        self._waiting = [*first, *(o for o in self._waiting if _place(o) not in map(_place, first))]


def _place(offer: Offer) -> tuple[str, str, str, bool]:
    return offer.provider, offer.instance_type, offer.region, offer.spot
