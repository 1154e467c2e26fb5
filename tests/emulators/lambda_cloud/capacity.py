"""How many machines of each type are left in each region, and what the listing says of it."""

from __future__ import annotations

from tests.emulators.lambda_cloud.catalog import REGIONS, TYPES, region
from tests.emulators.lambda_cloud.options import Options


class Capacity:
    """Stock goes down with a launch and up with a termination. What is listed can be made to disagree."""

    def __init__(self, options: Options) -> None:
        self._left = {
            (each.name, place): options.default_capacity
            for each in TYPES.values()
            for place in each.regions
        }
        self._listed: dict[tuple[str, str], bool] = {}
        for name, regions in options.capacity.items():
            for place, left in regions.items():
                self.set(name, place, left)

    def set(self, type_name: str, place: str, left: int, listed: bool | None = None) -> None:
        """Puts the stock, and whether the region is listed whatever the stock is.

        Raises:
            ValueError: no such type or region.
        """
        if type_name not in TYPES or place not in REGIONS:
            raise ValueError(f"{type_name} in {place} is not sold")
        self._left[type_name, place] = left
        self._listed.pop((type_name, place), None)
        if listed is not None:
            self._listed[type_name, place] = listed

    def left(self, type_name: str, place: str) -> int:
        """Machines that a launch could still get."""
        return self._left.get((type_name, place), 0)

    def take(self, type_name: str, place: str) -> None:
        """One less."""
        self._left[type_name, place] = self.left(type_name, place) - 1

    def give(self, type_name: str, place: str) -> None:
        """One more."""
        self._left[type_name, place] = self.left(type_name, place) + 1

    def listed(self, type_name: str) -> list[dict[str, str]]:
        """`regions_with_capacity_available`, which is advice and no promise."""
        return [
            region(place)
            for place in REGIONS
            if self._listed.get((type_name, place), self.left(type_name, place) > 0)
        ]
