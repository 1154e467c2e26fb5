"""The same program for the plain pulumi CLI: the Spec comes from stack configuration, `dayfly:provider` and so on.

`pulumi preview` shows resources and cost; what `pulumi up` makes is a run in the journal like any other, with the
same tags and the same deadline, so that `dayfly ps` and `dayfly gc` know it.
"""

from __future__ import annotations

import os
import time

import pulumi

from dayfly.errors import (
    BudgetExceeded,
    ConfigurationError,
    PolicyDenied,
    ProvisionFailed,
    SpecError,
)
from dayfly.infra import providers, rungs
from dayfly.infra.ingress import PRIVATE_VARIABLE
from dayfly.infra.offers import Offer
from dayfly.infra.planning import make_plan
from dayfly.infra.providers.base import Provider
from dayfly.infra.run import Run, new_id
from dayfly.infra.spec import Spec
from dayfly.stacks import account, intent, journal, settings
from dayfly.stacks.absence import places_of
from dayfly.stacks.journal import History
from dayfly.stacks.policies import Policies
from dayfly.stacks.program import launch
from dayfly.stacks.settings import Settings
from dayfly.stacks.workspace import Workspace


def configured_spec() -> Spec:
    """The Spec of this stack's configuration, above the settings of the project and the user."""
    config = pulumi.Config("dayfly")
    given = {name: config.get(name) for name in settings.SPEC_FIELDS}
    texts = {name: text for name, text in given.items() if text is not None}
    return Spec.from_options(settings.load().spec_options() | settings.from_texts(texts))


def open_run(workspace: Workspace) -> History | None:
    """The run of this stack that is up, so that a second `up` changes nothing; None where there is none."""
    stack = pulumi.get_stack()
    found = journal.histories(workspace.runs)
    mine = (history for history in found if history.plain and history.stack == stack)
    return next((history for history in mine if _is_up(history, workspace)), None)


def new_run(workspace: Workspace, spec: Spec, offer: Offer) -> Run:
    """One of its own; on paper only in a preview."""
    stack = pulumi.get_stack()
    if pulumi.runtime.is_dry_run():
        run_id = new_id()
        return Run(
            run_id, workspace.owner, 0.0, spec.max_runtime_s, workspace.directory(run_id), "", ""
        )
    return intent.write(workspace, new_id(), spec, offer, plain=True, stack=stack)


def _is_up(history: History, workspace: Workspace) -> bool:
    """False for a run whose machine is gone, although no `dayfly ps` has closed it yet: its deadline is an old one."""
    if history.last("launched") is None:
        return time.time() < history.deadline
    provider = _equipped(history.provider)
    account.check(history)
    return bool(provider.left_of(history.id, workspace.owner, places_of(history)))


def _equipped(name: str) -> Provider:
    """A provider that lacks nothing on this computer.

    Raises:
        ConfigurationError: it does; names the fix.
    """
    provider = providers.load(name)
    missing = provider.preflight()
    if missing:
        raise ConfigurationError("\n".join(missing))
    return provider


def _left_out(reason: str) -> None:
    pulumi.log.info(f"not in the ladder: {reason}")


def _first_rung(found: Settings, spec: Spec) -> Offer:
    """The first Offer of the ladder that `dayfly plan` shows; what is not in it is told here, too.

    Only its own provider has to be one that could be used from here: the others are not asked for a machine.
    """
    offers = rungs.of_all(spec, _left_out, to_run=False)
    policies = Policies.of(found)
    allowed, denied = policies.sift(offers, lambda some: [make_plan(spec, [each]) for each in some])
    for reason in denied:
        _left_out(reason)
    _equipped(allowed[0].provider)
    return allowed[0]


def _keep_out_the_public(workspace: Workspace) -> None:
    """Tells whoever opens a machine's port that a policy lets in nobody but this computer, whatever shell this was started from.

    A preview opens none, and goes on where this computer's own address cannot be found out.
    """
    if pulumi.runtime.is_dry_run():
        os.environ.pop(PRIVATE_VARIABLE, None)
    elif workspace.private_ingress:
        os.environ[PRIVATE_VARIABLE] = "1"


def _again(history: History, spec: Spec) -> None:
    """What is up, as it was asked for: prices and images have changed since, and another answer would replace the machine."""
    was = Spec(**history.intent["spec"])
    if was != spec:
        pulumi.log.warn(
            f"run {history.id[:12]} of this stack is up as it was asked for then, whatever its configuration says now:"
            " `pulumi destroy` ends it, and the next `pulumi up` asks for another"
        )
    _equipped(history.provider)
    launch(was, Offer(**history.intent["offer"]), history.run)


def main() -> None:
    """One stack, one machine."""
    spec = configured_spec()
    found = settings.load()
    workspace = Workspace.open(found)
    _keep_out_the_public(workspace)
    try:
        rungs.check_host(spec)
        history = open_run(workspace)
        if history is not None:
            _again(history, spec)
            return
        offer = _first_rung(found, spec)
        run = new_run(workspace, spec, offer)
    except (
        SpecError,
        ConfigurationError,
        ProvisionFailed,
        BudgetExceeded,
        PolicyDenied,
    ) as refusal:
        raise SystemExit(str(refusal)) from None
    launch(spec, offer, run)


main()
