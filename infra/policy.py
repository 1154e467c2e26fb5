"""Policy: what may run at all, as a user, a project or a function says it; it denies with a reason before anything exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from dayfly.errors import ConfigurationError, PolicyDenied
from dayfly.infra.catalog import ANY_REGION
from dayfly.infra.ingress import is_public
from dayfly.infra.plan import Plan
from dayfly.infra.units import is_positive, suggestion


class Policy(NamedTuple):
    """One condition on a plan.

    Attributes:
        name: as people wrote it, "max_usd_per_hour = 5".
        origin: where.
        reason_against: why it denies a plan, whose first rung is the only one; "" where it does not.
        of_resources: it may look at the resources, so that these have to be listed first.
    """

    name: str
    origin: str
    reason_against: Callable[[Plan], str]
    of_resources: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})"


def of_table(table: object, origin: str) -> list[Policy]:
    """The policies of one `[tool.dayfly.policy]`, or `[policy]` of the user's file: all of them have to pass.

    Raises:
        ConfigurationError: one is not known, or cannot be so; names it with what it takes.
    """
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{origin}: policy={table!r} must be a table of policies")
    return [_of_setting(name, value, origin) for name, value in table.items()]


def of_callable(check: Callable[[Plan], object]) -> Policy:
    """One that is written in Python: None or True lets a plan pass, False or a text denies it, and so does raising PolicyDenied
    or AssertionError.

    Raises:
        ConfigurationError: it is not callable.
    """
    if not callable(check):
        raise ConfigurationError(
            f"policies: {check!r} is not callable; a policy takes a Plan, and returns None, or a text why it denies it"
        )
    name = getattr(check, "__qualname__", None) or repr(check)
    module = getattr(check, "__module__", None) or "a function"
    return Policy(name, module, lambda plan: _said(check, name, plan), of_resources=True)


def _said(check: Callable[[Plan], object], name: str, plan: Plan) -> str:
    try:
        told = check(plan)
    except (PolicyDenied, AssertionError) as denial:
        return str(denial) or f"{type(denial).__name__} without a reason"
    except Exception as error:
        # One that is broken has not allowed anything.
        raise PolicyDenied(
            f"the policy {name} failed with {type(error).__name__}: {error}; nothing was created"
        ) from error
    if told is None or told is True:
        return ""
    if told is False:
        return "it said no"
    if isinstance(told, str):
        return told or "it gave an empty reason"
    raise PolicyDenied(
        f"the policy {name} returned {told!r}: None or True lets a plan pass, False or a text denies it; nothing was created"
    )


def _of_setting(name: str, value: Any, origin: str) -> Policy:
    if name not in _RULES:
        raise ConfigurationError(f"{origin}: unknown policy {name!r}; {suggestion(name, _RULES)}")
    takes, is_right, reason = _RULES[name]
    if not is_right(value):
        raise ConfigurationError(f"{origin}: policy {name}={value!r} must be {takes}")
    return Policy(f"{name} = {value!r}", origin, lambda plan: reason(plan, value))


def _too_dear(plan: Plan, most: float) -> str:
    return f"${plan.usd_per_hour:g}/h" if plan.usd_per_hour > most else ""


def _risks_too_much(plan: Plan, most: float) -> str:
    attempts = int(plan.spec.get("retries") or 0) + 1
    usd = plan.worst_case_usd * attempts
    times = f", {attempts} attempts" if attempts > 1 else ""
    return f"${usd:g} at worst{times}" if usd > most else ""


def _is_elsewhere(plan: Plan, globs: str | Sequence[str]) -> str:
    region = str(plan.offers[0]["region"])
    if region == ANY_REGION and "*" not in _listed(globs):
        return "its region is not known yet; name one"
    return _not_one_of(region, globs)


def _not_one_of(name: str, globs: str | Sequence[str]) -> str:
    return "" if any(fnmatchcase(name, each) for each in _listed(globs)) else name


def _is_bought_otherwise(plan: Plan, spot: bool) -> str:
    if plan.offers[0]["spot"] == spot:
        return ""
    return "on demand" if spot else "spot"


def _lets_the_public_in(plan: Plan, allowed: bool) -> str:
    public = [network for network in plan.ingress if is_public(network)]
    return f"22/tcp would be open to {', '.join(public)}" if public and not allowed else ""


def _listed(globs: str | Sequence[str]) -> Sequence[str]:
    return (globs,) if isinstance(globs, str) else globs


def _is_globs(value: object) -> bool:
    listed = _listed(value) if isinstance(value, str | list | tuple) else ()
    return bool(listed) and all(isinstance(each, str) for each in listed)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


_USD = "a number of dollars above 0"
_GLOBS = 'a name or a list of names, with "*" for any part'
_SWITCH = "true or false"
# What each takes, whether a value is that, and why a plan is denied, "" where it is not.
_RULES: dict[str, tuple[str, Callable[[Any], bool], Callable[[Plan, Any], str]]] = {
    "max_usd_per_hour": (_USD, is_positive, _too_dear),
    "max_worst_case_usd": (_USD, is_positive, _risks_too_much),
    "providers": (_GLOBS, _is_globs, lambda p, v: _not_one_of(p.offers[0]["provider"], v)),
    "regions": (_GLOBS, _is_globs, _is_elsewhere),
    "instance_types": (
        _GLOBS,
        _is_globs,
        lambda p, v: _not_one_of(p.offers[0]["instance_type"], v),
    ),
    "spot": (_SWITCH, _is_switch, _is_bought_otherwise),
    "public_ingress": (_SWITCH, _is_switch, _lets_the_public_in),
}
