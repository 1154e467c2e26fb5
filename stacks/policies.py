"""The policies that one call has to pass: those of the user's file, of the project's, and of the function itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dayfly.errors import PolicyDenied
from dayfly.infra import policy
from dayfly.infra.offers import Offer
from dayfly.infra.plan import Plan
from dayfly.infra.policy import Policy
from dayfly.stacks.settings import Settings

Check = Callable[[Plan], object]


class Policies(NamedTuple):
    """All of them: each has to pass, so that the strictest decides.

    Attributes:
        every: in the order in which they are asked, those that cost nothing first.
    """

    every: tuple[Policy, ...] = ()

    @classmethod
    def of(cls, settings: Settings, checks: Sequence[Check] = ()) -> Policies:
        """Those of the settings, and those that a function was given.

        Raises:
            ConfigurationError: one of them cannot be.
        """
        set_here = [
            each
            for layer in settings.policies
            for each in policy.of_table(layer.value, f"{layer.origin} policy")
        ]
        return cls((*set_here, *map(policy.of_callable, checks)))

    def __bool__(self) -> bool:
        return bool(self.every)

    @property
    def of_resources(self) -> bool:
        """Whether one of them may look at the resources."""
        return any(each.of_resources for each in self.every)

    @property
    def names(self) -> tuple[str, ...]:
        """For people, and for a plan that has passed them."""
        return tuple(map(str, self.every))

    def without_resources(self) -> Policies:
        """Those that look at no resources."""
        return Policies(tuple(each for each in self.every if not each.of_resources))

    def reason_against(self, plan: Plan, *, fast: bool = False) -> str:
        """Why a plan of one rung is denied; "" where it is not.

        Args:
            plan: of that rung.
            fast: nobody was asked for its resources; where none are known, those that may look at them do not judge it.

        Raises:
            PolicyDenied: a policy is broken.
        """
        unlisted = self.of_resources and not plan.resources_from
        if unlisted and not fast:
            why = plan.rungs[0].listing.why
            return f"policies look at its resources, which could not be listed: {why}"
        for each in (self.without_resources() if unlisted else self).every:
            reason = each.reason_against(plan)
            if reason:
                return f"policy {each} denies it: {reason}"
        return ""

    def check(self, plan: Plan) -> None:
        """
        Raises:
            PolicyDenied: a plan of one rung does not pass.
        """
        reason = self.reason_against(plan)
        if reason:
            raise PolicyDenied(f"{place(plan)}: {reason}")

    def sift(
        self,
        offers: Sequence[Offer],
        plans: Callable[[Sequence[Offer]], Sequence[Plan]],
        *,
        fast: bool = False,
    ) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
        """The rungs that the policies allow, and why they deny the others.

        Args:
            offers: the ladder.
            plans: makes a plan of each rung alone; not asked where there are no policies.
            fast: as of `reason_against`.

        Raises:
            PolicyDenied: they allow none; has the reason against each.
        """
        if not self:
            return tuple(offers), ()
        allowed, denied = list[Offer](), list[str]()
        for offer, plan in zip(offers, plans(offers), strict=True):
            reason = self.reason_against(plan, fast=fast)
            if reason:
                denied.append(f"{place(plan)}: {reason}")
            else:
                allowed.append(offer)
        if not allowed:
            raise PolicyDenied("\n".join([*denied, "nothing was created"]))
        return tuple(allowed), tuple(denied)


def place(plan: Plan) -> str:
    """Where a plan's first rung is."""
    offer = plan.offers[0]
    return f"{offer['provider']} {offer['instance_type']} in {offer['region']}"
