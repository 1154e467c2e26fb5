"""provider="lambda": on-demand machines of Lambda Cloud, through dynamic resources of our own.

A run's stack holds a key, a firewall ruleset, the instance, and the wait until it can be used; docs/lambda.md tells the rest.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dayfly.errors import ConfigurationError
from dayfly.infra import (
    caller,
    lambda_account,
    lambda_endpoint,
    lambda_inventory,
    lambda_key,
    lambda_offers,
    port_map,
    run_names,
    selection,
    user_data,
)
from dayfly.infra.found import Found, State
from dayfly.infra.ingress import PRIVATE_VARIABLE, SSH_PORT
from dayfly.infra.lambda_errors import ApiError, code_in, kind_of
from dayfly.infra.offers import Offer
from dayfly.infra.providers.base import FailureKind, Limits, Provider
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

if TYPE_CHECKING:
    from dayfly.infra.dynamic import DynamicProvider

_CONSOLE = "https://cloud.lambda.ai/instances"
_USER = "ubuntu"
_BILLING_INCREMENT_S = 60.0
# A launch without an answer may still be carried out for so long.
_LATE_CREATE_S = 600.0


class LambdaCloud(Provider):
    """Lambda Cloud's on-demand machines."""

    name = "lambda"
    keeps_creations = True
    free = frozenset(
        f"pulumi-python:dynamic/dayfly:Lambda{kind}" for kind in ("Key", "Ruleset", "Ready")
    )
    takes = frozenset({"image", "file_systems"})
    # Of Lambda Stack on Ubuntu 22.04, which a machine gets that asks for no other image.
    pythons = ("3.10",)
    credentials = (lambda_key.VARIABLE,)
    environment = (
        lambda_key.VARIABLE,
        lambda_endpoint.URL_VARIABLE,
        lambda_endpoint.SCALE_VARIABLE,
        port_map.VARIABLE,
        "XDG_CONFIG_HOME",
    )

    @property
    def limits(self) -> Limits:
        scale = lambda_endpoint.time_scale()
        return Limits(
            listing_lag_s=lambda_inventory.LISTING_LAG_S / scale,
            late_create_s=_LATE_CREATE_S / scale,
            billing_increment_s=_BILLING_INCREMENT_S / scale,
            if_this_computer_dies="the machine ends the function at its deadline, but Lambda bills it until somebody"
            " terminates it: `dayfly gc --yes` here, or elsewhere with the same key and --owner",
            console=_CONSOLE,
        )

    def offers(self, spec: Spec) -> Sequence[Offer]:
        if not lambda_key.is_there() and not spec.file_systems:
            return self.catalog_offers(spec)
        api = lambda_account.api()
        sold = lambda_offers.from_api(api.instance_types())
        return lambda_offers.ladder(spec, sold, regions=api.regions, file_systems=api.file_systems)

    def catalog_offers(self, spec: Spec) -> Sequence[Offer]:
        # Where a file system is only the API knows.
        alone = dataclasses.replace(spec, file_systems=())
        return lambda_offers.ladder(alone, selection.from_catalog("lambda"))

    def price_list(self) -> Sequence[Offer]:
        if not lambda_key.is_there():
            return super().price_list()
        return lambda_offers.price_list(lambda_account.api().instance_types())

    def declare(self, spec: Spec, offer: Offer, run: Run) -> Sequence[Mapping[str, Any]]:
        from pulumi import Output
        from pulumi.dynamic import Resource

        class LambdaKey(Resource, module="dayfly", name="LambdaKey"):
            pass

        class LambdaRuleset(Resource, module="dayfly", name="LambdaRuleset"):
            ruleset: Output[str]
            allowed: Output[str]

        class LambdaInstance(Resource, module="dayfly", name="LambdaInstance"):
            pass

        class LambdaReady(Resource, module="dayfly", name="LambdaReady"):
            host: Output[str]
            inner_host: Output[str]
            ready_after_s: Output[float]

        # The SDK asks for a provider's methods, not for its base class.
        made: Any = [each() for each in self.dynamic()]
        key_provider, ruleset_provider, instance_provider, ready_provider = made
        identity = {
            "run": run.id,
            "owner": run.owner,
            "deadline": int(run.deadline),
            "directory": str(run.directory),
        }
        name = run_names.of(run)
        key = LambdaKey(
            key_provider,
            "key",
            {**identity, "name": name, "public_key": f"{run.public_key} {run.owner}"},
        )
        ruleset = LambdaRuleset(
            ruleset_provider,
            "ruleset",
            {
                **identity,
                "name": name,
                "region": offer.region,
                "allow_cidr": spec.allow_cidr,
                "ruleset": None,
                "allowed": None,
                # The engine's process makes it, which under the plain CLI is told of no policy. Left out where none says so, as
                # it was when none could.
                **({"private": True} if os.environ.get(PRIVATE_VARIABLE) else {}),
            },
        )

        def machine(node: int) -> Mapping[str, Any]:
            other = f"-{node}" if node else ""
            # The first is as it was when there was no other.
            which = {**identity, **({"node": node} if node else {})}
            instance = LambdaInstance(
                instance_provider,
                f"instance{other}",
                {
                    **which,
                    "name": f"dayfly-{run.id[:12]}-{int(run.deadline)}{other}",
                    "region": offer.region,
                    "instance_type": offer.instance_type,
                    # Not the name alone: the key has to be there first.
                    "ssh_key": key.id.apply(lambda _: name),
                    "rulesets": [ruleset.ruleset],
                    "file_systems": list(spec.file_systems),
                    # Left out where none is asked for, as it was when none could be.
                    **({"image": spec.image} if spec.image else {}),
                    "tags": run.tags,
                    "user_data": Output.secret(user_data.of(run, node)),
                },
            )
            waited_for = {"host": None, "inner_host": None, "ready_after_s": None}
            ready = LambdaReady(
                ready_provider,
                f"ready{other}",
                {**which, "instance": instance.id, **waited_for},
            )
            return {
                "id": instance.id,
                "host": ready.host,
                "port": SSH_PORT,
                "user": _USER,
                "host_key": run.host_key_of(node),
                # It comes with the user data, which whoever holds the account may read.
                "host_key_bootstrap": True,
                "firewall": ruleset.allowed,
                "ready_after_s": ready.ready_after_s,
                "inner_host": ready.inner_host,
            }

        return [machine(node) for node in range(spec.nodes)]

    def inventory(self, owner: str | None) -> Sequence[Found]:
        return lambda_inventory.of(lambda_account.api(), owner)

    def terminate(self, found: Found) -> None:
        api = lambda_account.api()
        try:
            if found.kind == "instance":
                api.terminate(found.id)
            elif found.kind == "key":
                api.delete_ssh_key(found.id)
            else:
                api.delete_ruleset(found.id)
        except ApiError as error:
            # A ruleset is in use until its machine has ended: whoever reads the inventory again comes back to it.
            if not (error.gone or error.in_use):
                raise

    def instance_state(self, id: str) -> State:
        try:
            return lambda_account.api().instance(id).state
        except ApiError as error:
            if not error.gone:
                raise
            return "unknown"

    def address(self, id: str) -> tuple[str, int] | None:
        try:
            found = lambda_account.api().instance(id)
        except ApiError as error:
            if not error.gone:
                raise
            return None
        return (found.ip, SSH_PORT) if found.ip else None

    def admit(self, id: str) -> str:
        from dayfly.infra.lambda_rules import lets_in, ssh_rule

        here = caller.own(lambda_endpoint.base_url())
        if here is None:
            return ""  # Nobody is let in for whom nobody can be named.
        api = lambda_account.api()
        # Only what is ours, and the run's own.
        behind = [r for r in api.rulesets() if id in r.instances and run_names.run_in(r.name)]
        closed = [ruleset for ruleset in behind if not lets_in(ruleset, here.cidr)]
        for ruleset in closed:
            # Behind the others: the first one's description says whose it is.
            rules = (*ruleset.rules, ssh_rule(here.cidr, ruleset.description))
            api.set_rules(ruleset.id, rules)
        return str(here) if closed else ""

    def failure(self, error: str) -> FailureKind:
        return kind_of(code_in(error))

    def regions_named(self, error: str) -> Sequence[str]:
        if self.failure(error) != "capacity":
            return ()
        tried = re.findall(r"launching \S+ in ([a-z0-9-]+):", error)
        named = re.findall(r"\b[a-z]+-[a-z]+-\d\b", error)
        return tuple(region for region in dict.fromkeys(named) if region not in tried)

    def dynamic(self) -> Sequence[type[DynamicProvider]]:
        from dayfly.infra import lambda_resources as made

        return made.KeyProvider, made.RulesetProvider, made.InstanceProvider, made.ReadyProvider

    def is_configured(self) -> bool:
        try:
            return lambda_key.is_there()
        except OSError:
            # A folder that cannot be looked into may hold one.
            return True

    def preflight(self) -> Sequence[str]:
        try:
            lambda_account.api()
        except ConfigurationError as missing:
            return [str(missing)]
        return []


PROVIDER = LambdaCloud()
