"""Held: one resource as a stack's state has it, and whose that state is said to be; whoever can edit a state may have written it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class Held(NamedTuple):
    """One resource of a state.

    Attributes:
        type: as the engine writes it, "aws:ec2/instance:Instance".
        id: the plugin's, "" where its creation was not answered.
        inputs, outputs: as they are kept, secrets in whatever form.
    """

    type: str
    id: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def says(self, name: str, *allowed: object) -> bool:
        """Whether neither its inputs nor its outputs give a property another value than these."""
        return all(v.get(name) in (None, *allowed) for v in (self.inputs, self.outputs))


class Whose(NamedTuple):
    """The run that a state is said to be of.

    Attributes:
        run: its id.
        region: of its offer.
        place: the account that it is in, as `Provider.place`.
        listed: gives the ids of all that the provider lists of it; asked at most once, and only where no id tells by itself.
    """

    run: str
    region: str
    place: str
    listed: Callable[[], Collection[str]]
