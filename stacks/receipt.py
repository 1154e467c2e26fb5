"""Receipt: what was destroyed, the provider's confirmation that nothing is left, minutes and dollars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dayfly.stacks.journal import RECEIPT, recorded_receipt


@dataclass(frozen=True)
class Receipt:
    """The end of a run.

    Attributes:
        run: its id.
        provider: where it ran.
        destroyed: resources that were destroyed.
        declared: resources that the stack held.
        left: how many the provider still lists: always 0, else there is a LeakRisk and no receipt.
        confirmed_at: unix time of the last listing without them.
        lived_s: seconds that are billed: from the launch until the provider said that the machine had ended.
        billed_s: the same, rounded up to the provider's billing increment, and to what it bills at least.
        usd_per_hour: the rate frozen at launch.
        usd: dollars for `billed_s`.
        how: "pulumi" (the stack's own destroy) or "provider" (through the provider's API, the state being of no use).
        notes: what was out of the ordinary.
        machine_of: the run whose machine it was on, which has the bill; "" where it had one of its own.
        at_most: the answer to the launch was lost, so that seconds and dollars are counted from its beginning.
    """

    run: str
    provider: str
    destroyed: int
    declared: int
    left: int
    confirmed_at: float
    lived_s: float
    usd_per_hour: float
    usd: float
    how: str
    notes: tuple[str, ...] = ()
    billed_s: float | None = None
    at_most: bool = False
    machine_of: str = ""

    @property
    def minutes(self) -> float:
        """Minutes billed."""
        return (self.lived_s if self.billed_s is None else self.billed_s) / 60

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Receipt:
        """From what `as_dict` gave."""
        return cls(**{**values, "notes": tuple(values["notes"])})

    @classmethod
    def of(cls, directory: Path) -> Receipt | None:
        """The receipt of a closed run, None while it is open."""
        try:
            return cls.from_dict(json.loads((directory / RECEIPT).read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            # Damaged since it was written: the journal has the same words.
            kept = recorded_receipt(directory)
            return None if kept is None else cls.from_dict(kept)
