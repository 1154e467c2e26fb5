"""The operations of the API: their addresses, and what each does to the cloud."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.emulators.lambda_cloud import catalog, order, refusal
from tests.emulators.lambda_cloud.body import Body
from tests.emulators.lambda_cloud.cloud import Cloud
from tests.emulators.lambda_cloud.faults import Fault

BASE = "/api/v1"


@dataclass(frozen=True)
class Call:
    """One request that was let in.

    Attributes:
        id: from the path, "" where the path has none.
        query: the first value of each parameter.
        content: the parsed body.
        again: the second of two runs of the same request, which the client sent once.
    """

    cloud: Cloud
    id: str
    query: Mapping[str, str]
    content: Any = None
    again: bool = False

    @property
    def body(self) -> Body:
        """The body, as an object to be read field by field."""
        return Body(self.content)


Answer = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One of them.

    Attributes:
        name: that a fault script calls it by.
        act: gives the whole answer, envelope and all.
    """

    name: str
    method: str
    path: str
    act: Callable[[Call], Answer]

    def match(self, path: str) -> str | None:
        """The id in a path of this operation, "" where it has none; None for another path."""
        pattern = re.escape(BASE + self.path).replace(r"\{id\}", "([^/]+)")
        found = re.fullmatch(pattern, path)
        return None if found is None else (found.groups() or ("",))[0]


def _data(act: Callable[[Call], Any]) -> Callable[[Call], Answer]:
    return lambda call: {"data": act(call)}


def _launch(call: Call) -> Answer:
    cloud = call.cloud
    cloud.account.need_address()
    wanted = order.read(call.body, cloud.ssh_keys, cloud.file_systems, cloud.firewalls)
    return cloud.instances.launch(wanted)


def _list_instances(call: Call) -> Answer:
    call.cloud.account.need_instances()
    return call.cloud.instances.listing(call.query.get("cluster_id"), call.query.get("page_token"))


def _get_instance(call: Call) -> Answer:
    call.cloud.account.need_instances()
    return call.cloud.instances.get(call.id)


def _create_file_system(call: Call) -> Answer:
    call.cloud.account.need_address()
    return call.cloud.file_systems.create(call.body)


def _ssh_keys(call: Call) -> list[Answer]:
    return [key.as_json() for key in call.cloud.ssh_keys.all()]


def _regions(_: Call) -> list[dict[str, str]]:
    return [catalog.region(name) for name in catalog.REGIONS]


OPERATIONS = tuple(
    Operation(name, method, path, act)
    for name, method, path, act in (
        (
            "list_instance_types",
            "GET",
            "/instance-types",
            _data(lambda c: c.cloud.instance_types()),
        ),
        ("list_instances", "GET", "/instances", _list_instances),
        ("get_instance", "GET", "/instances/{id}", _data(_get_instance)),
        (
            "rename_instance",
            "POST",
            "/instances/{id}",
            _data(lambda c: c.cloud.instances.rename(c.id, c.body)),
        ),
        ("launch", "POST", "/instance-operations/launch", _data(_launch)),
        (
            "terminate",
            "POST",
            "/instance-operations/terminate",
            _data(lambda c: c.cloud.instances.terminate(c.body)),
        ),
        (
            "restart",
            "POST",
            "/instance-operations/restart",
            _data(lambda c: c.cloud.instances.restart(c.body)),
        ),
        ("list_ssh_keys", "GET", "/ssh-keys", _data(_ssh_keys)),
        (
            "add_ssh_key",
            "POST",
            "/ssh-keys",
            _data(lambda c: c.cloud.ssh_keys.add(c.body, twice=c.again)),
        ),
        (
            "delete_ssh_key",
            "DELETE",
            "/ssh-keys/{id}",
            _data(lambda c: c.cloud.ssh_keys.delete(c.id)),
        ),
        ("list_file_systems", "GET", "/file-systems", _data(lambda c: c.cloud.file_systems.all())),
        ("create_file_system", "POST", "/filesystems", _data(_create_file_system)),
        (
            "delete_file_system",
            "DELETE",
            "/filesystems/{id}",
            _data(lambda c: c.cloud.file_systems.delete(c.id)),
        ),
        ("list_images", "GET", "/images", _data(lambda _: catalog.images())),
        ("list_regions", "GET", "/regions", _data(_regions)),
        (
            "get_firewall_rules",
            "GET",
            "/firewall-rules",
            _data(lambda c: c.cloud.firewalls.account_rules()),
        ),
        (
            "put_firewall_rules",
            "PUT",
            "/firewall-rules",
            _data(lambda c: c.cloud.firewalls.put_account_rules(c.body)),
        ),
        (
            "get_global_ruleset",
            "GET",
            "/firewall-rulesets/global",
            _data(lambda c: c.cloud.firewalls.global_ruleset()),
        ),
        (
            "patch_global_ruleset",
            "PATCH",
            "/firewall-rulesets/global",
            _data(lambda c: c.cloud.firewalls.patch_global(c.body)),
        ),
        ("list_rulesets", "GET", "/firewall-rulesets", _data(lambda c: c.cloud.firewalls.all())),
        (
            "create_ruleset",
            "POST",
            "/firewall-rulesets",
            _data(lambda c: c.cloud.firewalls.create(c.body)),
        ),
        (
            "get_ruleset",
            "GET",
            "/firewall-rulesets/{id}",
            _data(lambda c: c.cloud.firewalls.get(c.id)),
        ),
        (
            "patch_ruleset",
            "PATCH",
            "/firewall-rulesets/{id}",
            _data(lambda c: c.cloud.firewalls.patch(c.id, c.body)),
        ),
        (
            "delete_ruleset",
            "DELETE",
            "/firewall-rulesets/{id}",
            _data(lambda c: c.cloud.firewalls.delete(c.id)),
        ),
    )
)
NAMES = tuple(each.name for each in OPERATIONS)


def check(faults: Iterable[Fault]) -> None:
    """A fault of an operation that does not exist would never come, and prove nothing.

    Raises:
        ValueError: names it and what there is.
    """
    for each in faults:
        if each.op not in (*NAMES, "*"):
            raise ValueError(f"no operation {each.op!r}; known: *, {', '.join(NAMES)}")


def find(method: str, path: str) -> tuple[Operation, str]:
    """The operation at an address, and the id in it.

    Raises:
        Refusal: there is none.
    """
    for each in OPERATIONS:
        if each.method == method and (id := each.match(path)) is not None:
            return each, id
    raise refusal.not_found()
