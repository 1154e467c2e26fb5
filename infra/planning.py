"""Planning: a Plan of a ladder, from what its rungs would create and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from dayfly.infra import cost, keep, providers
from dayfly.infra.listing import Listing
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan, Rung
from dayfly.infra.spec import Spec


def make_plan(
    spec: Spec,
    offers: Sequence[Offer],
    listings: Sequence[Listing] = (),
    *,
    function: str = "",
    environment_source: str = "decided by the function that runs",
    environment_digest: str = "",
    code: str = "",
    code_digest: str = "",
    idle_s: float = 0.0,
) -> Plan:
    """A Plan of these rungs.

    Args:
        spec: what is asked for.
        offers: the ladder.
        listings: of its first rungs, or of all; the others are not listed.
        function: "module:name", "" for a machine alone.
        environment_source, environment_digest, code, code_digest, idle_s: as in `Plan`.
    """
    listed = [*listings, *[Listing()] * (len(offers) - len(listings))]
    rungs = tuple(
        _rung(spec, offer, listing) for offer, listing in zip(offers, listed, strict=True)
    )
    first, rung = offers[0], rungs[0]
    return Plan(
        function=function,
        resources=rung.listing.resources,
        resources_from=rung.listing.source,
        offers=tuple(offer.as_dict() for offer in offers),
        usd_per_hour=rung.usd_per_hour,
        worst_case_usd=rung.worst_case_usd,
        max_runtime_s=rung.max_runtime_s,
        hold_usd=rung.usd_per_hour * min(spec.hold_s, rung.max_runtime_s) / 3600,
        environment=environment_source,
        if_this_computer_dies=rung.if_this_computer_dies,
        min_gpu_utilization=spec.min_gpu_utilization,
        gpu_utilization_window_s=spec.gpu_window_s,
        code=code,
        keep="" if spec.kept is None else keep.described(spec.kept),
        keep_usd=rung.usd_per_hour * keep.longest_s(spec.kept, rung.max_runtime_s) / 3600,
        nodes=spec.nodes,
        idle_s=idle_s,
        spec=spec.as_dict(),
        code_digest=code_digest,
        environment_digest=environment_digest,
        rungs=rungs,
        ingress=tuple(providers.load(first.provider).ingress(spec)),
    )


def _rung(spec: Spec, offer: Offer, listing: Listing) -> Rung:
    return Rung(
        usd_per_hour=offer.usd_per_hour * spec.nodes,
        worst_case_usd=cost.worst_case_usd(spec, offer),
        max_runtime_s=cost.allowed_runtime_s(spec, offer),
        if_this_computer_dies=providers.load(offer.provider).limits.if_this_computer_dies,
        listing=listing,
    )
