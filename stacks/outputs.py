"""What every stack exports: a Machine's fields and the money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dayfly.infra import cost, providers
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

if TYPE_CHECKING:
    import asyncio

    import pulumi

# What only tells the engine which account to ask.
_ENGINES_OWN = "pulumi:providers:"


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


class Priced:
    """Resources with their prices: a machine's own is the Offer's, and what is free is the provider's to say.

    Args:
        offer: the rung.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._free = providers.load(offer.provider).free
        self._ids: list[asyncio.Future[set[pulumi.Resource]]] = []

    def look_at(self, machines: Sequence[Mapping[str, Any]]) -> None:
        """Remembers which resource each machine's id is of; inside the program, where that is not known yet."""
        import asyncio

        import pulumi

        self._ids += [
            asyncio.ensure_future(pulumi.Output.from_input(each["id"]).resources())
            for each in machines
        ]

    def of(self, listed: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """What was listed as (type, name), each with dollars an hour; None where nobody has told them."""
        machines = {name for found in self._ids for name in self._names(found)}
        return [
            {"type": type, "name": name, "usd_per_hour": self._usd_per_hour(type, name, machines)}
            for type, name in listed
        ]

    def _names(self, found: asyncio.Future[set[pulumi.Resource]]) -> set[str]:
        """The one resource that is no free one; none where the program has not come so far, or an id is one of several."""
        if not found.done() or found.cancelled() or found.exception() is not None:
            return set()
        names = {
            each.pulumi_resource_name
            for each in found.result()
            if each.pulumi_resource_type not in self._free
        }
        return names if len(names) == 1 else set()

    def _usd_per_hour(self, type: str, name: str, machines: set[str]) -> float | None:
        if name in machines:
            return self._offer.usd_per_hour
        return 0.0 if type in self._free or type.startswith(_ENGINES_OWN) else None
