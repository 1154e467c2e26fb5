"""The dynamic resources of a Lambda Cloud run: its key, its firewall ruleset, its machine, and the wait until that can be used.

Their dotted names are in the state of every stack that is up, so they stay what they are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dayfly.errors import ConfigurationError
from dayfly.infra import caller, creations, fence, lambda_account, lambda_endpoint
from dayfly.infra.dynamic import CreateResult, DynamicProvider
from dayfly.infra.found import GONE
from dayfly.infra.lambda_errors import ApiError, is_without_firewall
from dayfly.infra.lambda_inventory import LISTING_LAG_S
from dayfly.infra.lambda_once import Once
from dayfly.infra.lambda_records import NODE_TAG, Launch
from dayfly.infra.lambda_rules import ssh_rule
from dayfly.infra.lambda_wait import Waiting


class KeyProvider(DynamicProvider):
    """The run's public key in the account, since a launch names one."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        api, name = lambda_account.api(), props["name"]

        def named() -> list[str]:
            return [key.id for key in api.ssh_keys() if key.name == name]

        post = partial(api.add_ssh_key, name, props["public_key"])
        id = _once(props, "key", partial(api.await_turn), post, named).make()
        # A key that was added twice makes every launch with its name fail without a reason.
        with contextlib.suppress(ApiError):
            for twin in named():
                if twin != id:
                    api.delete_ssh_key(twin)
        return CreateResult(id, _outs(props, "name", "public_key"))

    def delete(self, id: str, props: dict[str, Any]) -> None:
        lambda_account.api().delete_ssh_key(id)
        _record_deleted(props, id)


class RulesetProvider(DynamicProvider):
    """The firewall ruleset that lets the caller in; regions without rulesets go without."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        api, name, region = lambda_account.api(), props["name"], props["region"]
        private = bool(props.get("private"))
        allowed = caller.allowed(
            props.get("allow_cidr"), lambda_endpoint.base_url(), private=private
        )
        rule = ssh_rule(allowed.cidr, f"SSH for {props['owner']}")

        def named() -> list[str]:
            return [ruleset.id for ruleset in api.rulesets() if ruleset.name == name]

        post = partial(api.add_ruleset, name, region, [rule])
        try:
            id = _once(props, "network", partial(api.await_turn), post, named).make()
        except ApiError as refusal:
            if not is_without_firewall(refusal, region):
                raise
            if private:
                raise ConfigurationError(
                    f"{region} has no firewall rulesets, and the policy public_ingress = false lets no machine be open to anybody:"
                    " name another region"
                ) from refusal
            said = f"none: {region} has no firewall rulesets, so that port 22 may be open to all"
            return CreateResult(
                f"none-{props['run']}",
                _outs(props, "name", "region", "allow_cidr") | {"ruleset": "", "allowed": said},
            )
        return CreateResult(
            id,
            _outs(props, "name", "region", "allow_cidr") | {"ruleset": id, "allowed": str(allowed)},
        )

    def diff(self, id: str, olds: dict[str, Any], news: dict[str, Any]) -> Any:
        # A policy that is new makes no firewall anew behind which a machine stands.
        return super().diff(id, olds, {n: v for n, v in news.items() if n != "private"})

    def delete(self, id: str, props: dict[str, Any]) -> None:
        if props.get("ruleset"):
            # Whatever of the run still holds it is to end.
            waiting = _waiting(props)
            waiting.until_free(partial(waiting.api.delete_ruleset, id), props["run"])
            _record_deleted(props, id)


class InstanceProvider(DynamicProvider):
    """The machine itself; create returns the moment the API has answered with an id."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        api, node = lambda_account.api(), _node(props)
        tags = props["tags"] | ({NODE_TAG: node} if node else {})
        wanted = Launch(
            name=props["name"],
            region=props["region"],
            instance_type=props["instance_type"],
            ssh_key=props["ssh_key"],
            tags={name: str(value) for name, value in tags.items()},
            user_data=props["user_data"],
            rulesets=tuple(id for id in props["rulesets"] if id),
            file_systems=tuple(props["file_systems"]),
            image=props.get("image") or "",
        )

        def tagged() -> list[str]:
            return [
                row.id
                for row in api.instances()
                if row.tags.get("dayfly-run") == props["run"]
                and row.node == node
                and row.state not in GONE
            ]

        turn = partial(api.await_turn, launch=True)
        launched_at = time.time()
        id = _once(props, "instance", turn, partial(api.launch, wanted), tagged).make()
        kept = (
            "name",
            "region",
            "instance_type",
            "ssh_key",
            "tags",
            "rulesets",
            "file_systems",
            "image",
        )
        return CreateResult(id, _outs(props, *kept) | {"launched_at": launched_at})

    def diff(self, id: str, olds: dict[str, Any], news: dict[str, Any]) -> Any:
        # The user data is no output, so that there is nothing to compare it with; it follows from the run.
        return super().diff(id, olds, {n: v for n, v in news.items() if n != "user_data"})

    def delete(self, id: str, props: dict[str, Any]) -> None:
        lag_s = LISTING_LAG_S / lambda_endpoint.time_scale()
        unseen_until = float(props.get("launched_at") or 0.0) + lag_s
        _waiting(props, node=_node(props)).until_gone(id, props["run"], unseen_until)
        _record_deleted(props, id)


class ReadyProvider(DynamicProvider):
    """Nothing but the wait until the machine can be logged in to; may fail and leaves nothing behind."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        begun = time.monotonic()
        check = partial(fence.check, Path(props["directory"]), float(props["deadline"]))
        waiting = _waiting(props, check, _node(props))
        found = waiting.until_ready(props["instance"], props["run"])
        outs = {
            "host": found.ip,
            "inner_host": found.private_ip,
            "ready_after_s": round(time.monotonic() - begun, 1),
        }
        return CreateResult(f"ready-{props['run']}", _outs(props, "instance") | outs)


def _node(props: Mapping[str, Any]) -> int:
    """Which machine of the run; the first has no number."""
    return int(props.get("node") or 0)


def _waiting(
    props: Mapping[str, Any],
    check: Callable[[], None] = lambda: None,
    node: int | None = None,
) -> Waiting:
    return Waiting(
        lambda_account.api(),
        check,
        lambda_endpoint.time_scale(),
        record=partial(creations.twins, Path(props["directory"]), node=node),
        node=node,
    )


def _once(props: Mapping[str, Any], kind: str, turn: Any, post: Any, find: Any) -> Once:
    return Once(
        Path(props["directory"]),
        float(props["deadline"]),
        kind,
        turn,
        post,
        find,
        LISTING_LAG_S,
        lambda_endpoint.time_scale(),
        node=_node(props),
    )


def _outs(props: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What may stand in the state in clear."""
    return {
        name: props[name]
        for name in ("run", "owner", "deadline", "directory", "node", *names)
        if name in props
    }


def _record_deleted(props: Mapping[str, Any], id: str) -> None:
    # The record serves whoever has no state; a deletion that it misses is found out there.
    with contextlib.suppress(OSError):
        creations.deleted(Path(props["directory"]), id)
