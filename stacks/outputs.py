"""What every stack exports: a Machine's fields and the money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec


def export(spec: Spec, offer: Offer, run: Run) -> Sequence[Mapping[str, Any]]:
    """The Pulumi program: the provider's resources, the outputs of each Machine, and the money.

    What the stack exports under its plain names is the first machine; the others are in `machines`.

    Returns:
        The outputs, for each machine.
    """
    import pulumi

    rate = offer.usd_per_hour * spec.nodes
    common = {
        "provider": offer.provider,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "usd_per_hour": rate,
        "cost_per_hour_usd": rate,
        "worst_case_usd": cost.worst_case_usd(spec, offer),
        "run": run.id,
    }
    declared = providers.load(offer.provider).declare(spec, offer, run)
    each = [declared] if isinstance(declared, Mapping) else declared
    assert len(each) == spec.nodes, (
        f"{offer.provider} declares {len(each)} machines, not {spec.nodes}"
    )
    machines = [
        {**found, **common, **({"node": node} if len(each) > 1 else {})}
        for node, found in enumerate(each)
    ]
    for name, value in machines[0].items():
        pulumi.export(name, value)
    if len(machines) > 1:
        pulumi.export("machines", machines)
    return machines
