"""Latecomers: what shows of a run that has its receipt; the run is opened again for them, and its receipt amended."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from dayfly.infra import cost
from dayfly.infra.found import Found
from dayfly.infra.providers.base import Provider
from dayfly.stacks import journal
from dayfly.stacks.journal import Event, History
from dayfly.stacks.receipt import Receipt
from dayfly.stacks.run_lock import locked
from dayfly.stacks.traces import Trace, Traces

_ASIDE = "receipt.before.json"


def reopen(directory: Path, provider: str, found: Sequence[Found]) -> bool:
    """Opens a closed run again, so that it is open for everybody until the latecomers are proved gone.

    Args:
        directory: the run's own.
        provider: name of the provider that lists them.
        found: what it lists.

    Returns:
        False where the run is not closed, and nothing was to be done.

    Raises:
        RunBusy: another process is closing it.
    """
    with locked(directory):
        receipt = Receipt.of(directory)
        if receipt is None:
            return False
        journal.append(
            directory,
            "reopened",
            provider=provider,
            found=[
                {"kind": f.kind, "id": f.id, "created": f.tags.get("dayfly-created")} for f in found
            ],
            receipt=receipt.as_dict(),
        )
        (directory / journal.RECEIPT).rename(directory / _ASIDE)
        return True


def traced(history: History, traces: Traces, provider: Provider) -> Traces:
    """The traces with the latecomers of that provider; then no record is complete, and one listing proves nothing."""
    event = history.reopened
    if event is None or event.fields["provider"] != provider.name:
        return traces
    tags = {"dayfly-run": history.id}
    late = [Trace(Found(f["kind"], f["id"], tags), event.time) for f in event.fields["found"]]
    return dataclasses.replace(traces, known=(*traces.known, *late), recorded=False)


def amended(history: History, event: Event, rate: float, provider: Provider, now: float) -> Receipt:
    """The receipt from before, with what came after it and its bill, which is at most what is said.

    Args:
        history: the run's journal, with everything that was ended.
        event: by which the run was opened again.
        rate: dollars an hour of one machine; 0 where that is not known.
        provider: where they were.
        now: unix time at which all were proved gone.
    """
    before = Receipt.from_dict(event.fields["receipt"])
    machines = dict(_machines(history, event))
    lived_s = [max(0.0, now - begun) for begun in machines.values()]
    limits = provider.limits
    was_billed_s = before.lived_s if before.billed_s is None else before.billed_s
    named = ", ".join(machines) or "no machine"
    note = f"it was opened again for what came after its receipt: {named}"
    if machines and not rate:
        note += "; what that cost is not known"
    return dataclasses.replace(
        before,
        provider=before.provider or provider.name,
        destroyed=before.destroyed + len(machines),
        declared=before.declared + len(machines),
        confirmed_at=now,
        lived_s=before.lived_s + sum(lived_s),
        billed_s=was_billed_s + sum(cost.billed_s(s, limits) for s in lived_s),
        usd_per_hour=before.usd_per_hour or rate,
        usd=before.usd + sum(cost.billed_usd(rate, s, limits) for s in lived_s),
        notes=(*before.notes, note),
        at_most=before.at_most or bool(machines),
    )


def _machines(history: History, event: Event) -> Iterator[tuple[str, float]]:
    """Each machine that had to be ended, and the earliest unix time since when it can have cost money.

    What had ended by itself was listed late, and is on the bill already.
    """
    asked = float(history.intent.get("created") or event.time)
    tags = {str(found["id"]): found["created"] for found in event.fields["found"]}
    for ended in history.events:
        if ended.name == "terminating" and ended.time >= event.time:
            id = str(ended.fields.get("id"))
            if ended.fields.get("kind") == "instance":
                yield id, _begun(tags.get(id), asked)


def _begun(tag: str | None, asked: float) -> float:
    with contextlib.suppress(TypeError, ValueError):
        begun = float(str(tag))
        if math.isfinite(begun):
            return begun
    return asked
