"""The plan of a machine alone, without a function that runs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dayfly.infra.plan import Plan
from dayfly.infra.planning import make_plan
from dayfly.infra.spec import Spec
from dayfly.runtime import listings
from dayfly.runtime.context import Context
from dayfly.runtime.ladder import with_left_out
from dayfly.stacks.policies import Policies


def plan_machine(
    spec: Spec,
    note: Callable[[str], None] = lambda _: None,
    *,
    context: Context | None = None,
    all_rungs: bool = False,
    fast: bool = False,
) -> Plan:
    """The Plan of a machine alone, without a function; see `Call.preview`.

    Args:
        context: where; None reads the settings and opens the workspace.

    Raises:
        SpecError, ConfigurationError, EngineMissing, BudgetExceeded, PolicyDenied: it cannot be had so.
        ProvisionFailed: the engine refuses the program.
    """
    context = context or Context.open()
    asked = Policies.of(context.settings)
    offers, left_out = with_left_out(spec, note, to_run=False, live=not fast)
    offers, denied = asked.sift(
        offers, lambda offers: [make_plan(spec, [offer]) for offer in offers]
    )
    if fast:
        listed = listings.kept(context, spec, offers)
    else:
        listed = listings.of_ladder(context, spec, offers, note, all_rungs=all_rungs)
    plan = make_plan(spec, offers, listed)
    return dataclasses.replace(plan, policies=asked.names, left_out=left_out, denied=denied)
