"""Bill: what a run's machines have cost, or have cost so far: one reckoning for receipts, `dayfly cost` and `Job.cost`."""

from __future__ import annotations

from dataclasses import dataclass

from dayfly.infra import cost
from dayfly.infra.providers.base import Provider
from dayfly.stacks.journal import History
from dayfly.stacks.traces import Traces, is_refused


@dataclass(frozen=True)
class Bill:
    """Never less than the provider's own: each machine from the request for it until it was seen gone.

    Attributes:
        usd_per_hour: of one machine.
        lived_s: seconds that the machines lived, together.
        billed_s: the same, each rounded up to the provider's billing increment, and to what it bills at least.
        usd: dollars for that.
        at_most: the answer to a launch was lost: there may have been no machine.
        notes: what was out of the ordinary, in sentences.
    """

    usd_per_hour: float
    lived_s: float
    billed_s: float
    usd: float
    at_most: bool
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        history: History,
        provider: Provider,
        now: float,
        *,
        destroyed: int = 0,
        ended: float | None = None,
    ) -> Bill:
        """What has been asked for and not been refused.

        Args:
            history: the run's journal.
            provider: where it runs.
            now: unix time until which what was not seen gone is billed.
            destroyed: how many things were ended that a refusal of the machine does not explain.
            ended: unix time by which all that is known had ended, where whoever ended it has waited for that.

        Raises:
            OSError: the record of what was asked for cannot be read now.
        """
        traces, limits = Traces.of(history, provider), provider.limits
        refused = not traces.recorded and not destroyed and is_refused(history)
        lives = () if refused else traces.lives
        rate = machine_rate_of(history)
        until = ended if ended is not None and traces.recorded else now
        lived = [max(0.0, (life.ended or until) - life.begun) for life in lives]
        notes = tuple(
            f"a launch was carried out twice: machine {life.id} is ${cost.billed_usd(rate, span_s, limits):.2f} of the bill"
            for life, span_s in zip(lives, lived, strict=True)
            if life.is_twin
        )
        return cls(
            rate,
            sum(lived),
            sum(cost.billed_s(span_s, limits) for span_s in lived),
            sum(cost.billed_usd(rate, span_s, limits) for span_s in lived),
            any(life.is_guess for life in lives),
            notes,
        )


def rate_of(history: History) -> float:
    """Dollars an hour of all its machines: as launched, else, where the launch's answer was lost, as offered."""
    offered = float(history.intent.get("offer", {}).get("usd_per_hour", 0.0))
    return float(history.field("launched", "usd_per_hour", offered * history.nodes))


def machine_rate_of(history: History) -> float:
    """Dollars an hour of one of its machines, which are all alike."""
    return rate_of(history) / history.nodes
