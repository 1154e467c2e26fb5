"""Budget: what all runs of this computer together may cost in a day or a month, as somebody has set it."""

from __future__ import annotations

import time
from typing import NamedTuple

from dayfly.errors import ConfigurationError
from dayfly.infra.units import is_positive, shown
from dayfly.stacks.settings import Settings

_PERIODS = {"budget_per_day": "%Y-%m-%d", "budget_per_month": "%Y-%m"}


class Budget(NamedTuple):
    """One limit.

    Attributes:
        setting: the name of its setting.
        value: as it is set.
        origin: where it is set.
    """

    setting: str
    value: object
    origin: str

    @classmethod
    def all_of(cls, settings: Settings) -> tuple[Budget, ...]:
        """Those that are set; one that is wrong is refused when it is asked for, since no teardown may be hindered by it."""
        set_here = ((name, settings.values.get(name)) for name in _PERIODS)
        return tuple(cls(name, each.value, each.origin) for name, each in set_here if each)

    @property
    def usd(self) -> float:
        """Dollars.

        Raises:
            ConfigurationError: it is no number of dollars above 0.
        """
        usd = self.value
        if not is_positive(usd):
            raise ConfigurationError(
                f"{self.setting}={shown(usd)} ({self.origin}) must be a number of dollars above 0; leave it out for no limit"
            )
        return float(usd)

    def period(self, moment: float) -> str:
        """The day or the month, of this computer's calendar, of a unix time: "2026-01-31", "2026-01"."""
        return time.strftime(_PERIODS[self.setting], time.localtime(moment))
