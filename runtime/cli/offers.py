"""`dayfly offers`: what machines there are, everywhere, and for how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from dayfly.runtime.cli.common import with_json
from dayfly.runtime.cli.options import parsed

if TYPE_CHECKING:
    from dayfly.infra.offers import Offer

_COLUMNS = ("PROVIDER", "MACHINE", "GPUS", "CORES", "MEMORY", "REGION", "$/H", "", "AGE", "SOURCE")


@click.command()
@click.option(
    "--gpu", metavar="GPU", help='GPUs at least, "A100:1", "24GB..48GB:2" or "H100,A100-80GB".'
)
@click.option("--cores", metavar="CORES", type=int, help="Virtual cores at least.")
@click.option("--memory", metavar="MEMORY", help='Memory at least, "32GB".')
@click.option(
    "--provider", metavar="PROVIDER", multiple=True, help="Only of this one; may be repeated."
)
@click.option("--region", metavar="REGION", help="The provider's own name of a region.")
@click.option("--max-price", metavar="MAX_PRICE", type=float, help="Dollars an hour at most.")
@click.option(
    "--spot/--on-demand",
    default=None,
    help="Only those that the provider may take back, or only the others; both if left out.",
)
@with_json
def offers(
    *,
    gpu: str | None,
    cores: int | None,
    memory: str | None,
    provider: Sequence[str],
    region: str | None,
    max_price: float | None,
    spot: bool | None,
    json: bool,
) -> None:
    """List priced machines of all providers, the cheapest first.

    Prices of just now where a provider's API tells them and its key is there, else those of the catalog; each with its source
    and age.
    """
    from dayfly.runtime import market
    from dayfly.runtime.cli.output import emit_json, emit_rows, tell

    found = market.offers(
        gpu=gpu,
        cores=cores,
        memory=memory,
        region=region,
        max_price=max_price,
        spot=spot,
        note=lambda text: tell(f"dayfly: {text}"),
        **parsed({"provider": list(provider)} if provider else {}),
    )
    if json:
        emit_json([offer.as_dict() for offer in found])
        return
    if not found:
        tell("no machine of the catalog is like that; ask for less, or leave some of it out")
        return
    emit_rows(_COLUMNS, [_row(offer) for offer in found])
    elsewhere = dict.fromkeys(o.provider for o in found if not market.usable(o.provider))
    if elsewhere:
        tell(
            f"dayfly: of {', '.join(elsewhere)} only prices are known: no machine can be made there yet"
        )


def _row(offer: Offer) -> list[str]:
    from dayfly.infra.units import human_bytes
    from dayfly.runtime.wording import dollars, gpus, price_age

    described: dict[str, Any] = offer.as_dict()
    return [
        offer.provider,
        offer.instance_type,
        gpus(described) or "-",
        str(offer.cores),
        human_bytes(offer.memory_bytes),
        offer.region,
        dollars(offer.usd_per_hour),
        "spot" if offer.spot else "",
        price_age(offer.as_of),
        offer.source,
    ]
