"""Found: one thing of ours that a provider's listing shows, and the standard states of an instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dayfly.infra.run import is_id

State = Literal[
    "pending", "booting", "running", "unhealthy", "preempted", "stopping", "terminated", "unknown"
]
# In these it will never come back, and costs nothing.
GONE: tuple[State, ...] = ("terminated", "preempted")
# One that cannot be reached and of which its provider says this will not come back.
LOST: tuple[State, ...] = (*GONE, "unhealthy", "stopping")


@dataclass(frozen=True)
class Found:
    """One thing of ours that the provider's API lists.

    Attributes:
        kind: "instance", "process", "key", "network", "disk", "address", or "group" of all that a run has.
        id: the provider's own id.
        tags: what it carries, as `Run.tags`.
        state: in the standard words.
    """

    kind: str
    id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    state: State = "running"

    @property
    def run(self) -> str:
        """The run that it belongs to, "" where the tag is missing, or is no run's: anybody may have written it."""
        tag = self.tags.get("dayfly-run", "")
        return tag if is_id(tag) else ""
