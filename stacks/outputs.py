"""What every stack exports: a Machine's fields and the money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec


def export(spec: Spec, offer: Offer, run: Run) -> Mapping[str, Any]:
    """The Pulumi program: the provider's resources, the outputs of a Machine, and the money.

    Returns:
        The outputs, as they were exported.
    """
    import pulumi

    rate = offer.usd_per_hour * spec.nodes
    outputs = dict(providers.load(offer.provider).declare(spec, offer, run)) | {
        "provider": offer.provider,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "usd_per_hour": rate,
        "cost_per_hour_usd": rate,
        "worst_case_usd": cost.worst_case_usd(spec, offer),
        "run": run.id,
    }
    for name, value in outputs.items():
        pulumi.export(name, value)
    return outputs
