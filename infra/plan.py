"""Plan: the resources a run would create, the ladder of Offers and the money, before a cent is spent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from dayfly.errors import ConfigurationError
from dayfly.infra import whole_file
from dayfly.infra.listing import Listing, Resource
from dayfly.infra.offers import Offer

# What a file says that it is, so that none of another kind is taken for one.
_FORMAT = "dayfly-plan-1"
# What must not have changed since, beside the Spec and the price; of a plan of a machine alone the first one.
_COMPARED = ("resources", "function", "environment", "environment_digest", "code_digest")
# Of whoever calls, and of no machine.
_OWN = frozenset({"outputs", "job_name"})
# What JSON has made lists of.
_TUPLES = ("ingress", "policies", "left_out", "denied", "unjudged")
# Sums of dollars are not exact.
_ROUNDED_USD = 1e-9


@dataclass(frozen=True)
class Rung:
    """What a run on one Offer of the ladder would create, and cost at most.

    Attributes:
        usd_per_hour: rate, all nodes.
        worst_case_usd: dollars if it lives until its deadline.
        max_runtime_s: seconds after which the machine ends.
        if_this_computer_dies: what ends the machine then, in one line.
        listing: its resources.
    """

    usd_per_hour: float
    worst_case_usd: float
    max_runtime_s: float
    if_this_computer_dies: str
    listing: Listing = field(default_factory=Listing)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rung:
        """One that was written as JSON."""
        return cls(**{**values, "listing": Listing.from_dict(values["listing"])})


class Runner(Protocol):
    """Makes a call as planned."""

    def __call__(self, plan: Plan, /) -> Any:
        """Its value."""

    def aio(self, plan: Plan, /) -> Awaitable[Any]:
        """The same, without blocking the event loop."""


@dataclass(frozen=True)
class PlannedCall:
    """What `plan.run` is: `plan.run()` makes the call, `await plan.run.aio()` does so without blocking the event loop.

    Attributes:
        plan: what it keeps to.
    """

    plan: Plan

    def __call__(self) -> Any:
        return self._runner(self.plan)

    async def aio(self) -> Any:
        """The same, without blocking the event loop; a task that is cancelled meanwhile stops the function."""
        return await self._runner.aio(self.plan)

    @property
    def _runner(self) -> Runner:
        if self.plan.runner is None:
            raise ConfigurationError(
                "this plan was read from a file and has no function: f.as_planned(plan)(...) calls it, or"
                " `dayfly run --plan FILE MODULE:FUNCTION ...`"
            )
        return self.plan.runner


@dataclass(frozen=True)
class Plan:
    """What a run would create and cost at most.

    Attributes:
        function: "module:name" of the function, "" for a machine alone.
        resources: what the stack of the first rung would hold.
        resources_from: who says so, as `Listing.source`.
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
        spec: what is asked for, as plain JSON values.
        code_digest: of what travels of the user's own; "" for a machine alone.
        environment_digest: of what would be installed; "" where that is nothing, or not known yet.
        rungs: of each of `offers`, in their order, money and resources; those of some may not be listed.
        ingress: networks that may reach port 22 of its machines, "203.0.113.7/32"; "own" is the address that this computer has
            when they are made; empty where nothing is opened to any network.
        policies: those that every rung has passed.
        left_out: why a provider that was named has no rung in the ladder, each in one line.
        denied: rungs that a policy has taken out of the ladder, each with the reason.
        unjudged: policies that may look at resources, in a fast plan some of whose rungs were never listed.
        runner: makes the call that it is the plan of, as planned; None where it was read from a file.
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
    spec: Mapping[str, Any] = field(default_factory=dict)
    code_digest: str = ""
    environment_digest: str = ""
    rungs: tuple[Rung, ...] = ()
    ingress: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    runner: Runner | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, for review in a pull request."""
        values = dataclasses.asdict(dataclasses.replace(self, runner=None))
        del values["runner"]
        return values

    def save(self, file: str | PathLike[str]) -> None:
        """Writes it as JSON, for review, and for `dayfly run --plan FILE`."""
        text = json.dumps({"format": _FORMAT, **self.as_dict()}, indent=2)
        whole_file.write(Path(file), f"{text}\n")

    @classmethod
    def load(cls, file: str | PathLike[str]) -> Plan:
        """One that was saved.

        Raises:
            ConfigurationError: there is none in that file.
        """
        try:
            values = json.loads(Path(file).read_text(encoding="utf-8"))
            if values.pop("format") != _FORMAT or "runner" in values or not values["spec"]:
                raise ValueError("none of this version")
            resources = tuple(Resource(**each) for each in values.pop("resources"))
            offers = tuple(Offer(**each).as_dict() for each in values.pop("offers"))
            rungs = tuple(Rung.from_dict(each) for each in values.pop("rungs", ()))
            if not offers:
                raise ValueError("no machine")
            values |= {name: tuple(values.get(name, ())) for name in _TUPLES}
            return cls(resources=resources, offers=offers, rungs=rungs, **values)
        except OSError as error:
            raise ConfigurationError(
                f"the plan {file} cannot be read: {error.strerror}; `dayfly plan --save {file}` makes one"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{file} holds no plan of this version; `dayfly plan --save {file}` makes one"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """What travels of it; its function is another thing."""
        return {**self.__dict__, "runner": None}

    @property
    def run(self) -> PlannedCall:
        """`plan.run()` makes the call that it is the plan of, with its arguments as they are now, and gives its value.

        Raises:
            PlanChanged: price, code, environment, resources or what is asked for are others now; nothing was spent.
            ConfigurationError: it was read from a file, and has no arguments.
        """
        return PlannedCall(self)

    def allows(self, offer: Offer) -> bool:
        """Whether a machine is one of its ladder, at no higher price; in whatever region, unless the Spec names one."""
        return any(
            _is_same(rung, offer) and offer.usd_per_hour <= rung["usd_per_hour"] + _ROUNDED_USD
            for rung in self.offers
        )

    def dearer(self, offers: Sequence[Offer]) -> list[str]:
        """Why none of these is one that it allows, each rung of its ladder in one line."""
        return [_gone(rung, offers) for rung in self.offers]

    def changes(self, now: Plan) -> list[str]:
        """What is different now, each in one line, prices and machines aside; empty where the plan still holds.

        The resources are those of the rung that is the first one now, which may have been a lower one.
        """
        then, today = (json.loads(json.dumps(each.as_dict())) for each in (self, now))
        then["resources"] = self._resources_of(now.offers[0])
        names = sorted({*then["spec"], *today["spec"]} - _OWN)
        found = [_change(n, then["spec"].get(n), today["spec"].get(n)) for n in names]
        compared: tuple[str, ...] = _COMPARED if self.function else _COMPARED[:1]
        if then["resources"] is None:
            found.append(self._unlisted())
            compared = compared[1:]
        found += [_change(name, then[name], today[name]) for name in compared]
        return [each for each in found if each]

    def _resources_of(self, offer: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """What one rung was to hold; None where its resources were not listed."""
        listed = [
            rung.listing.resources
            for planned, rung in zip(self.offers, self.rungs, strict=False)
            if rung.listing.source and _is_same(planned, Offer(**offer))
        ]
        alike = self.resources_from and self.offers[0]["provider"] == offer["provider"]
        if not listed and not alike:
            return None
        # Machines of one provider are alike but for their size.
        return [dataclasses.asdict(each) for each in (listed or [self.resources])[0]]

    def _unlisted(self) -> str:
        """Why the resources of a rung that is none of those listed cannot be compared, and what to do."""
        if self.resources_from:
            return "resources: those of this machine were not planned; a plan of all rungs has them (all_rungs=True, --all-rungs)"
        why = self.rungs[0].listing.why if self.rungs else ""
        return f"resources: they were not listed{f' ({why})' if why else ''}: plan again without --fast"


def _is_same(rung: Mapping[str, Any], offer: Offer) -> bool:
    return (rung["provider"], rung["instance_type"], rung["spot"]) == (
        offer.provider,
        offer.instance_type,
        offer.spot,
    )


def _gone(rung: Mapping[str, Any], offers: Sequence[Offer]) -> str:
    place = f"{rung['provider']} {rung['instance_type']}"
    prices = [offer.usd_per_hour for offer in offers if _is_same(rung, offer)]
    if not prices:
        return f"{place} is not to be had now"
    return f"{place}: ${rung['usd_per_hour']:g}/h was planned, ${min(prices):g}/h it is now"


def _change(name: str, was: Any, is_now: Any) -> str:
    """What is different; "" where nothing is."""
    if name == "resources":
        return _other_resources(was, is_now)
    if was == is_now:
        return ""
    if name.endswith("_digest"):
        what = "code" if name == "code_digest" else "what is installed"
        return f"{what} has changed ({was[:12] or 'none'}, now {is_now[:12] or 'none'})"
    return f"{name}: {was!r} was planned, {is_now!r} it is now"


def _other_resources(was: Sequence[Mapping[str, Any]], is_now: Any) -> str:
    """What would be there more or less, in whatever order, and whatever it costs; "" where nothing would."""
    old, new = ({f"{each['name']} ({each['type']})" for each in every} for every in (was, is_now))
    added, gone = ", ".join(sorted(new - old)), ", ".join(sorted(old - new))
    told = [f"{added} would be new" * bool(added), f"{gone} would not be there" * bool(gone)]
    return f"resources: {' and '.join(filter(None, told))}" if any(told) else ""
