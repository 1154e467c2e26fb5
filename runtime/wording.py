"""How plans, receipts, money and times read, wherever they are shown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from dayfly.infra.listing import Listing
from dayfly.infra.plan import Plan
from dayfly.infra.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from dayfly.stacks.receipt import Receipt

_OLD_PRICE_DAYS = 30
# Who has listed resources, as `Listing.source`.
_SOURCES = {
    "engine": "by the engine's preview",
    "recorder": "by the recorder, without the engine",
    "cache": "not asked again",
    "": "resources are not listed",
}
Rows = tuple[tuple[str, str], ...]


def dollars(amount: float) -> str:
    """An amount for people; a fraction of a cent keeps two digits that count."""
    if 0 < abs(amount) < 0.01:
        return f"${amount:.2g}" if abs(amount) >= 0.0001 else f"${amount:.1e}"
    return f"${amount:,.2f}"


def percent(share: float) -> str:
    """A percentage for people."""
    return f"{share:.0f} %"


def clock(moment: float) -> str:
    """The time of day on this computer."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def stamp(moment: float) -> str:
    """Date and time on this computer."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def plan_rows(plan: Plan) -> Rows:
    """A Plan as label and text, in the order in which people ask; an empty label goes on with the one above."""
    return tuple(_plan_rows(plan))


def _plan_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.function:
        yield "function", plan.function
    yield from _resource_rows(plan)
    said = plan.rungs[0].listing.why if plan.rungs else ""
    for number, offer in enumerate(plan.offers):
        rung = plan.rungs[number] if number < len(plan.rungs) else None
        worst = f"; {dollars(rung.worst_case_usd)} at worst" if rung and number else ""
        yield "or" if number else "machine", f"{machine(offer)}{worst}"
        # Why nothing is listed is said once.
        if rung and number and (rung.listing.source or rung.listing.why not in ("", said)):
            yield "", f"  {_listed(rung.listing)}"
    for reason in plan.denied:
        yield "denied", reason
    for passed in plan.policies:
        yield "policy", f"{passed}: passed"
    for skipped in plan.unjudged:
        yield "policy", f"{skipped}: not judged in a fast plan, which lists no resources anew"
    if plan.nodes > 1:
        yield (
            "machines",
            f"{plan.nodes} of them, made side by side; price and worst case are of all",
        )
    yield "price", f"{dollars(plan.usd_per_hour)}/h  ({price_source(plan.offers[0])})"
    attempts = int(plan.spec.get("retries") or 0) + 1
    each = f", each of {attempts} attempts" if attempts > 1 else ""
    yield "worst case", f"{dollars(plan.worst_case_usd)} if it lives until max_runtime{each}"
    yield "max_runtime", human_seconds(plan.max_runtime_s)
    yield "hold", f"{dollars(plan.hold_usd)} at most if this client is gone when the function ends"
    if plan.keep:
        yield "keep", f"{plan.keep}: {dollars(plan.keep_usd)} at most, within the worst case"
    if plan.idle_s:
        yield "idle", f"the run ends after {human_seconds(plan.idle_s)} without a call"
    if plan.min_gpu_utilization is not None:
        window = human_seconds(plan.gpu_utilization_window_s)
        least = f"{plan.min_gpu_utilization:g} %"
        yield "idle GPU", f"the machine ends the run where a GPU stays under {least} for {window}"
    yield "environment", plan.environment
    if plan.code:
        yield "code", plan.code
    yield "if this computer dies", plan.if_this_computer_dies


def _resource_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """What the first rung holds, each with its price where that is known, and who says so where it is not the engine."""
    for number, each in enumerate(plan.resources):
        known = each.usd_per_hour is not None
        price = f"{dollars(each.usd_per_hour or 0.0)}/h" if known else "price not known"
        yield "" if number else "resources", f"{each.name}  ({each.type})  {price}"
    why = plan.rungs[0].listing.why if plan.rungs else ""
    if plan.resources_from in ("engine", "") and not why:
        return
    label = "" if plan.resources else "resources"
    yield label, f"{_SOURCES[plan.resources_from]}: {why}" if why else _SOURCES[plan.resources_from]


def _listed(listing: Listing) -> str:
    """The resources of a lower rung in one line."""
    names = ", ".join(f"{each.name} ({each.type})" for each in listing.resources)
    source = _SOURCES[listing.source]
    why = f": {listing.why}" if listing.why else ""
    return f"{names}  [{source}{why}]" if names else f"{source}{why}"


def machine(offer: Mapping[str, Any]) -> str:
    """One rung of the ladder: where and what."""
    parts = [f"{offer['cores']} cores", human_bytes(offer["memory_bytes"])]
    if offer.get("gpus"):
        parts.append(gpus(offer))
    if offer.get("spot"):
        parts.append("spot")
    place = f"{offer['provider']} {offer['instance_type']} in {offer['region']}"
    return f"{place}  ({', '.join(parts)}, {dollars(offer['usd_per_hour'])}/h)"


def gpus(offer: Mapping[str, Any]) -> str:
    """How many of what GPUs, "1 x A100 40 GB"; "" without."""
    if not offer.get("gpus"):
        return ""
    memory = f" {offer['gpu_memory_gb']:.0f} GB" if offer.get("gpu_memory_gb") else ""
    return f"{offer['gpus']} x {offer['gpu_model']}{memory}"


def price_source(offer: Mapping[str, Any], today: date | None = None) -> str:
    """Where a price comes from and of when it is; an old one is called old."""
    source, as_of = str(offer.get("source") or "source unknown"), str(offer.get("as_of") or "")
    if not as_of:
        return f"{source}, date unknown"
    age = price_age(as_of, today)
    return f"{source}, {as_of}" + (f": {age}" if age.endswith("old") else "")


def price_age(as_of: str, today: date | None = None) -> str:
    """How old a price is of that date; one that may have changed since is called old."""
    try:
        age = ((today or datetime.now(UTC).date()) - date.fromisoformat(as_of)).days
    except ValueError:
        # A price list may say no more than the year.
        return "may be old"
    days = f"{age} days" if age > 1 else "1 day" if age else "today"
    return f"{days} old" if age > _OLD_PRICE_DAYS else days


def receipt_line(receipt: Receipt) -> str:
    """The receipt in one sentence."""
    if receipt.machine_of and not receipt.destroyed:
        return (
            f"nothing of its own is left at {clock(receipt.confirmed_at)}: it was on the machine of run"
            f" {receipt.machine_of[:12]}, which has the bill"
        )
    by = f"{receipt.provider} confirms " if receipt.provider else ""
    if receipt.machine_of:
        return (
            f"destroyed {receipt.destroyed} of {receipt.declared} of run {receipt.machine_of[:12]}, {by}{receipt.left} left at"
            f" {clock(receipt.confirmed_at)}; that one has the bill"
        )
    at_most = "at most " if receipt.at_most else ""
    return (
        f"destroyed {receipt.destroyed} of {receipt.declared}, {by}{receipt.left} left at"
        f" {clock(receipt.confirmed_at)}, {at_most}{minutes(receipt.minutes)} billed, {dollars(receipt.usd)}"
    )


def minutes(number: float) -> str:
    """Minutes as bills have them; a part of one keeps two digits."""
    return f"{number:.1f} min" if number >= 1 else f"{number:.2f} min"


def uncovered(run: str, names: Sequence[str]) -> str:
    """What a timer cannot do for a run, and why."""
    return (
        f"run {run[:12]} is not covered by `gc --install`: {', '.join(names)} came from its client's environment, and only"
        " the keeper has it now"
    )
