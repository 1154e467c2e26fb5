"""Plan: the resources a run would create, the ladder of Offers and the money, before a cent is spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Resource:
    """One resource of the stack, as the program declares it."""

    type: str
    name: str


@dataclass(frozen=True)
class Plan:
    """What a run would create and cost at most.

    Attributes:
        function: "module:name" of the function, "" for a machine alone.
        resources: what the stack would hold, in the order of declaration.
        resources_from: "engine" (the real engine's preview) or "recorder" (the program run without an engine).
        offers: the ladder, as plain JSON values, first choice first.
        usd_per_hour: rate of the first rung, all nodes.
        worst_case_usd: dollars of the first rung if it lives until its deadline.
        max_runtime_s: seconds after which the machine ends.
        hold_usd: dollars of a full hold of the result.
        keep: when and how long the machine stays for the next call, in words; "" where it goes.
        keep_usd: dollars that it can cost at most to stay after one call.
        environment: what would be installed, in one line.
        if_this_computer_dies: what ends the machine then, in one line.
        min_gpu_utilization: percent below which no GPU may stay for the next; None where one may idle.
        gpu_utilization_window_s: seconds.
        code: what travels of the user's own, in one line; "" for a machine alone.
        nodes: machines, all alike.
        idle_s: seconds without a call after which a session ends by itself; 0 where it waits until its block is left.
    """

    function: str
    resources: tuple[Resource, ...]
    resources_from: str
    offers: tuple[dict[str, Any], ...]
    usd_per_hour: float
    worst_case_usd: float
    max_runtime_s: float
    hold_usd: float
    environment: str
    if_this_computer_dies: str
    min_gpu_utilization: float | None = None
    gpu_utilization_window_s: float = 0.0
    code: str = ""
    keep: str = ""
    keep_usd: float = 0.0
    nodes: int = 1
    idle_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for review in a pull request."""
        return asdict(self)
