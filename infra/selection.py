"""Selection: which of the machines that a provider sells satisfy a Spec, cheapest first, or a refusal that names what would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dayfly.errors import NoCapacity, SpecError
from dayfly.infra import catalog
from dayfly.infra.catalog import MachineType
from dayfly.infra.offers import Offer
from dayfly.infra.spec import PREFER_SPOT, Spec
from dayfly.infra.units import human_bytes, suggestion

# Rungs that nobody has named cost at most so many times what the first one does.
_DEAREST = 2.0


class Sold(NamedTuple):
    """One machine type with the regions that say they have it; None where nobody was asked."""

    type: MachineType
    regions: tuple[str, ...] | None


class Selection(NamedTuple):
    """What one provider can offer for one Spec.

    Attributes:
        spec: what is asked for.
        sold: what there is.
        provider: whose it is, as `provider=` takes it.
        called: what people call that, "Lambda".
        live_with: what to do to have the prices that its API alone knows, "export LAMBDA_API_KEY".
    """

    spec: Spec
    sold: Sequence[Sold]
    provider: str
    called: str
    live_with: str

    def ladder(self, region: str | None = None) -> list[Offer]:
        """The Offers, those of the preferred kind of GPU first, of each kind the cheapest first.

        Args:
            region: in which all have to be; None for any.

        Raises:
            SpecError: nothing can satisfy the Spec, or a name is not known; says what would.
            NoCapacity: it could be satisfied, and no region says that it has such a machine now.
        """
        kinds = self._fitting()
        offers = [offer for fitting in kinds for offer in self._of_kind(fitting, region)]
        if not offers:
            raise NoCapacity(self._nowhere([each for fitting in kinds for each in fitting]))
        return list(dict.fromkeys(offers))

    def check_region(self, region: str, known: Iterable[str]) -> None:
        """Refuses a region that nobody knows.

        Raises:
            SpecError: with those of a like name.
        """
        names = set(known)
        if region not in names:
            raise SpecError(
                f"provider={self.provider!r} has no region {region!r}; {suggestion(region, names)}"
            )

    @property
    def _ways(self) -> tuple[bool, ...]:
        """Ways of buying, as `Offer.spot`, in the order in which they are tried."""
        if self.spec.spot == PREFER_SPOT:
            return True, False
        return (bool(self.spec.spot),)

    def _of_kind(self, fitting: Sequence[Sold], region: str | None) -> list[Offer]:
        """What there is of one kind, without what nobody has named and would be a surprise on the bill."""
        found: list[Offer] = []
        for spot in self._ways:
            offers = [o for each in fitting for o in self._rungs(each, region, spot)]
            offers.sort(key=lambda offer: offer.usd_per_hour)
            named = self.spec.instance_type is not None or not offers
            most = float("inf") if named else offers[0].usd_per_hour * _DEAREST
            found += [offer for offer in offers if offer.usd_per_hour <= most]
        return found

    def _rungs(self, each: Sold, region: str | None, spot: bool) -> Iterator[Offer]:
        if each.type.price(spot) is None:
            return
        if each.regions is None:
            places: tuple[str, ...] = (region or "",)
        elif region is None:
            places = each.regions
        else:
            # What an API says of capacity is advice: where a machine is named, it is asked for all the same.
            listed = region in each.regions or self.spec.instance_type is not None
            places = (region,) if listed else ()
        for place in places:
            yield each.type.offer(place, spot=spot)

    def _price(self, each: Sold) -> float | None:
        """What it costs in the first of the ways that has a price."""
        prices = (each.type.price(spot) for spot in self._ways)
        return next((price for price in prices if price is not None), None)

    def _fitting(self) -> list[list[Sold]]:
        """The types that satisfy a Spec, cheapest first: those of the preferred kind of GPU, then those of the next."""
        spec = self.spec
        priced = [each for each in self.sold if self._price(each) is not None]
        enough = sorted(
            (each for each in priced if not _lacks(spec, each.type)),
            key=lambda each: (self._price(each), each.type.name),
        )
        if spec.instance_type is not None:
            return [self._named(enough)]
        if not enough:
            raise SpecError(self._nothing_fits(priced))
        return self._with_few_gpus(enough) if spec.gpus else [enough]

    def _with_few_gpus(self, enough: Sequence[Sold]) -> list[list[Sold]]:
        """Of each kind those with the fewest GPUs: eight are "at least one", and nobody who asks for one wants to pay for them."""
        kinds, too_many = list[list[Sold]](), list[Sold]()
        for wanted in self.spec.gpus:
            fitting = [each for each in enough if wanted.is_sold_with(each.type)]
            least = min((each.type.gpus for each in fitting), default=0)
            fewest = [each for each in fitting if each.type.gpus == least]
            if least > wanted.count * _DEAREST:
                too_many += fewest
            elif fewest:
                kinds.append(fewest)
        if not kinds:
            first = too_many[0].type
            raise SpecError(
                f"gpu={self.spec.gpu!r}: {self.called} has them {first.gpus} at a time only, {self._described(too_many[0])};"
                f" if that is what you want, write gpu={_gpu_words(first)!r}"
            )
        return kinds

    def _named(self, enough: Sequence[Sold]) -> list[Sold]:
        """The type of that name; several where its price is another in another region."""
        names = {each.type.name for each in self.sold}
        name = str(self.spec.instance_type)
        if name not in names:
            raise SpecError(
                f"provider={self.provider!r} has no instance_type {name!r}; {suggestion(name, names)}"
            )
        found = [each for each in self.sold if each.type.name == name]
        priced = [each for each in found if self._price(each) is not None]
        if not priced:
            raise SpecError(
                f"instance_type={name!r}: its {self._bought}price is only known live; {self.live_with}"
            )
        lacks = _lacks(self.spec, found[0].type)
        if lacks:
            nearest = self._described(enough[0]) if enough else f"none of {self.called}'s"
            raise SpecError(
                f"instance_type={name!r} has {' and '.join(lacks)}; the nearest that fits is {nearest}"
            )
        return priced

    @property
    def _bought(self) -> str:
        return "spot " if self._ways == (True,) else ""

    def _nothing_fits(self, priced: Sequence[Sold]) -> str:
        """Says which field is out of reach, and the nearest type that the others allow."""
        spec = self.spec
        if not priced:
            return f"{self.called}'s {self._bought}prices are only known live; {self.live_with}"
        for name in ("gpu", "disk", "memory", "cores"):
            if getattr(spec, name) is None:
                continue
            left_out: dict[str, Any] = {name: None}
            rest = replace(spec, **left_out)
            without = [each for each in priced if not _lacks(rest, each.type)]
            if without and name == "gpu":
                choices = dict.fromkeys(_gpu_words(each.type) for each in without if each.type.gpus)
                return f"gpu={spec.gpu!r}: {self.called} has {', '.join(choices)}"
            if without:
                nearest = max(without, key=lambda each: _size(name, each.type))
                asked = (
                    human_bytes(getattr(spec, name))
                    if name in ("disk", "memory")
                    else getattr(spec, name)
                )
                return (
                    f"{name}={asked}: nothing that {self.called} has satisfies it; the nearest is"
                    f" {self._described(nearest)}"
                )
        return f"no type of {self.called}'s has so much of everything that is asked for; ask for less, or leave some out"

    def _described(self, each: Sold) -> str:
        kind = each.type
        gpus = f", {kind.gpus} x {kind.gpu_model}" if kind.gpus else ""
        size = f"{kind.cores} cores, {human_bytes(kind.memory_bytes)}{gpus}"
        return f"{kind.name} ({size}, ${self._price(each):g}/h)"

    def _nowhere(self, fitting: Sequence[Sold]) -> str:
        names = ", ".join(each.type.name for each in fitting)
        where = f"in {self.spec.region}" if self.spec.region else "in any region"
        rest = replace(self.spec, instance_type=None, gpu=None)
        elsewhere = [
            f"{each.type.name} in {', '.join(each.regions)} (${self._price(each):g}/h)"
            for each in sorted(self.sold, key=lambda each: self._price(each) or 0.0)
            if each.regions and self._price(each) is not None and not _lacks(rest, each.type)
        ]
        now = f"there is {'; '.join(elsewhere[:3])}" if elsewhere else "nothing else is free either"
        return f"{self.called} has no capacity for {names} {where} just now; {now}. Try again later, or name another"


def from_catalog(provider: str) -> list[Sold]:
    """What the package itself knows."""
    return [Sold(each, None) for each in catalog.machine_types(provider).values()]


def _lacks(spec: Spec, each: MachineType) -> list[str]:
    """What a type has too little of, in words; empty where it fits."""
    return list(_shortages(spec, each))


def _shortages(spec: Spec, each: MachineType) -> Iterator[str]:
    if (spec.cores or 0) > each.cores:
        yield f"{each.cores} cores, fewer than cores={spec.cores}"
    if spec.memory_bytes > each.memory_bytes:
        asked = human_bytes(spec.memory_bytes)
        yield f"{human_bytes(each.memory_bytes)} of memory, less than memory={asked}"
    if each.storage_bytes and spec.disk_bytes > each.storage_bytes:
        asked = human_bytes(spec.disk_bytes)
        yield f"{human_bytes(each.storage_bytes)} of disk, less than disk={asked}"
    if spec.gpus and not any(wanted.is_sold_with(each) for wanted in spec.gpus):
        have = f"{each.gpus} x {each.gpu_model} {each.gpu_memory_gb:.0f} GB"
        yield f"{have if each.gpus else 'no GPU'}, not gpu={spec.gpu!r}"


def _size(name: str, each: MachineType) -> float:
    sizes = {
        "cores": each.cores,
        "memory": each.memory_bytes,
        "disk": each.storage_bytes,
    }
    return sizes[name]


def _gpu_words(each: MachineType) -> str:
    return f"{each.gpu_model}-{each.gpu_memory_gb:.0f}GB:{each.gpus}"
