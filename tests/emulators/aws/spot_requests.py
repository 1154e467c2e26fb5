"""The requests behind spot instances, which moto makes none for: what EC2 says of them, and their cancellation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.emulators.aws import asked as wire
from tests.emulators.aws.asked import Asked, StartResponse
from tests.emulators.aws.faults import Refused
from tests.emulators.aws.instances import Instance, Instances


@dataclass
class SpotRequests:
    """Those of all instances, each known for as long as its instance.

    Attributes:
        instances: of this world.
        cancelled: ids of those that somebody has cancelled, which ends no instance.
    """

    instances: Instances
    cancelled: list[str] = field(default_factory=list)

    def describe(self, asked: Asked, start: StartResponse) -> Iterable[bytes]:
        """By their ids."""
        rows = [
            f"<item><spotInstanceRequestId>{each.spot_request}</spotInstanceRequestId><type>one-time</type>"
            f"<state>{self._state(each)}</state><instanceId>{each.row.id}</instanceId>"
            "<instanceInterruptionBehavior>terminate</instanceInterruptionBehavior></item>"
            for each in self._named(asked)
        ]
        inner = f"<spotInstanceRequestSet>{''.join(rows)}</spotInstanceRequestSet>"
        return wire.answer_xml(start, asked.action, inner)

    def cancel(self, asked: Asked, start: StartResponse) -> Iterable[bytes]:
        """Those that are named; their instances go on."""
        named = [each.spot_request for each in self._named(asked)]
        self.cancelled += named
        rows = (
            f"<item><spotInstanceRequestId>{id}</spotInstanceRequestId><state>cancelled</state></item>"
            for id in named
        )
        inner = f"<spotInstanceRequestSet>{''.join(rows)}</spotInstanceRequestSet>"
        return wire.answer_xml(start, asked.action, inner)

    def check_modified(self, asked: Asked) -> None:
        """A spot instance has no protection against being ended that could be changed.

        Raises:
            Refused: that is asked for.
        """
        id = asked.fields.get("InstanceId", "")
        spot = any(each.row.id == id and each.spot for each in self.instances.all())
        if spot and "DisableApiTermination.Value" in asked.fields:
            raise Refused(
                "UnsupportedOperation",
                "Modifying the disableApiTermination attribute is not supported for spot instances.",
            )

    def _named(self, asked: Asked) -> list[Instance]:
        known = {each.spot_request: each for each in self.instances.all() if each.spot}
        ids = asked.listed("SpotInstanceRequestId")
        for id in ids:
            if id not in known:
                raise Refused(
                    "InvalidSpotInstanceRequestID.NotFound",
                    f"The spot instance request ID '{id}' does not exist",
                )
        return [known[id] for id in ids]

    def _state(self, of: Instance) -> str:
        if of.spot_request in self.cancelled:
            return "cancelled"
        return "active" if of.alive else "closed"
