"""The stand-in for the `gcp` plugin: Pulumi's resources become requests to the world, and its refusals the plugin's words.

Those are of terraform-provider-google, which the real plugin is made of: "Error creating X: googleapi: Error 403: ..., reason"
for an answer, "Error waiting for X: " and the message without its code for an operation.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from tests.emulators.gcp import rules
from tests.emulators.gcp.refusals import Refusal
from tests.emulators.gcp.world import World
from tests.emulators.plugin import UNKNOWN, Plugin, Values
from tests.emulators.plugin import Refusal as PluginRefusal

_REQUIRED = {
    "Network": (),
    "Subnetwork": ("network",),
    "Firewall": ("network",),
    "Instance": ("bootDisk", "machineType", "networkInterfaces"),
}
_KINDS = {
    "Network": "networks",
    "Subnetwork": "subnetworks",
    "Firewall": "firewalls",
    "Instance": "instances",
}
# What the plugin calls them when it waits.
_MAKING = {"Instance": "instance to create"}
_ENDING = {"Instance": "instance to delete"}
_NAME = re.compile(rules.NAME)
_DELETE_S = 60.0
# The real one asks for 90 s, at 0.5, 1, 1.5, 2.5, ... (terraform-provider-google, google/transport/retry_transport.go).
_AGAIN_S, _AGAIN_AFTER_S = 3.0, 0.2


class GcpPlugin(Plugin):
    """In front of one world.

    Args:
        world: the truth.
        create_s: for how long it waits for an operation, as `custom_timeouts` tell the real one.
    """

    name = "gcp"
    version = json.loads((resources.files("pulumi_gcp") / "pulumi-plugin.json").read_text())[
        "version"
    ]

    def __init__(self, world: World, create_s: float = 60.0) -> None:
        super().__init__()
        self._world = world
        self._create_s = create_s

    def check(self, type: str, inputs: Values) -> Sequence[tuple[str, str]]:
        kind = _kind(type)
        if kind not in _REQUIRED:
            return [("", f"{type} is not known to this stand-in")]
        found = [
            (name, f"Missing required argument: The argument {name!r} is required")
            for name in _REQUIRED[kind]
            if not inputs.get(name)
        ]
        name = inputs.get("name", "")
        if name != UNKNOWN and not _NAME.match(name):
            found.append(("name", f'"name" ("{name}") doesn\'t match regexp "{rules.NAME}"'))
        if kind == "Firewall" and not (inputs.get("allows") or inputs.get("denies")):
            found.append(("allows", "one of `allow,deny` must be specified"))
        return found

    def planned(self, type: str, inputs: Values) -> Values:
        found = dict(inputs) | {"selfLink": UNKNOWN}
        if _kind(type) == "Instance":
            found["networkInterfaces"] = [
                {
                    **each,
                    "networkIp": UNKNOWN,
                    "accessConfigs": [{**a, "natIp": UNKNOWN} for a in each["accessConfigs"]],
                }
                for each in inputs["networkInterfaces"]
            ]
        return found

    def create(self, configuration: Values, type: str, inputs: Values) -> tuple[str, Values]:
        kind = _kind(type)
        project = inputs.get("project") or configuration.get("project")
        if not project:
            raise PluginRefusal(_errors("project: required field is not set"))
        scope, body = _BODIES[kind](project, inputs)
        path = f"projects/{project}/{scope}/{_KINDS[kind]}/{inputs['name']}"
        try:
            operation = self._asked(lambda: self._world.insert(project, scope, _KINDS[kind], body))
        except Refusal as refusal:
            raise PluginRefusal(_errors(f"Error creating {kind}: {_googleapi(refusal)}")) from None
        what = _MAKING.get(kind, f"Creating {kind}")
        self._await(operation, what, self._create_s)
        return path, self._outputs(kind, path, inputs)

    def delete(self, configuration: Values, type: str, id: str, outputs: Values) -> None:
        kind = _kind(type)
        try:
            operation = self._asked(lambda: self._world.delete(id))
        except Refusal as refusal:
            if refusal.status == 404:
                return
            raise PluginRefusal(
                _errors(f"Error when reading or editing {kind}: {_googleapi(refusal)}")
            ) from None
        self._await(operation, _ENDING.get(kind, f"Deleting {kind}"), _DELETE_S)

    def _asked(self, act: Callable[[], Values]) -> Values:
        """One request, asked again for a while where its refusal is of a kind that passes."""
        until = time.monotonic() + _AGAIN_S
        wait_s, next_s = _AGAIN_AFTER_S, _AGAIN_AFTER_S
        while True:
            try:
                self._world.gate()
                return act()
            except Refusal as refusal:
                if not refusal.is_tried_again or time.monotonic() + wait_s > until:
                    raise
            time.sleep(wait_s)
            wait_s, next_s = wait_s + next_s, wait_s

    def _await(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> None:
        try:
            done = self._world.wait(dict(operation), timeout_s)
        except TimeoutError:
            said = "timeout while waiting for state to become 'DONE' (last state: 'RUNNING', timeout: 10m0s)"
            raise PluginRefusal(_errors(f"Error waiting for {what}: {said}")) from None
        if error := done.get("error"):
            said = "\n".join(each["message"] for each in error["errors"])
            raise PluginRefusal(_errors(f"Error waiting for {what}: {said}\n"))

    def _outputs(self, kind: str, path: str, inputs: Values) -> Values:
        row = self._world.get(path)
        found = dict(inputs) | {"selfLink": row["selfLink"]}
        if kind == "Instance":
            found |= {"instanceId": row["id"], "currentStatus": row["status"]}
            found["networkInterfaces"] = [
                {
                    **each,
                    "networkIp": made["networkIP"],
                    "accessConfigs": [
                        {"natIp": access["natIP"]} for access in made["accessConfigs"]
                    ],
                }
                for each, made in zip(
                    inputs["networkInterfaces"], row["networkInterfaces"], strict=True
                )
            ]
        return found


def _kind(type: str) -> str:
    return type.rpartition(":")[2]


def _errors(text: str) -> str:
    """As the bridge prints what Terraform's provider gives."""
    return f"1 error occurred:\n\t* {text}\n\n"


def _googleapi(refusal: Refusal) -> str:
    """As google-api-go-client's `googleapi.Error` prints one error."""
    return f"googleapi: Error {refusal.status}: {refusal}, {refusal.reason}"


def _network(project: str, inputs: Values) -> tuple[str, Values]:
    return "global", _named(inputs) | {"autoCreateSubnetworks": inputs["autoCreateSubnetworks"]}


def _subnetwork(project: str, inputs: Values) -> tuple[str, Values]:
    body = _named(inputs) | {
        "network": inputs["network"],
        "ipCidrRange": inputs["ipCidrRange"],
    }
    return f"regions/{inputs['region']}", body


def _firewall(project: str, inputs: Values) -> tuple[str, Values]:
    allowed = [
        {"IPProtocol": each["protocol"], **({"ports": each["ports"]} if "ports" in each else {})}
        for each in inputs["allows"]
    ]
    names = ("direction", "sourceRanges", "sourceTags", "targetTags")
    body = {name: inputs[name] for name in names if name in inputs}
    return "global", _named(inputs) | body | {"network": inputs["network"], "allowed": allowed}


def _instance(project: str, inputs: Values) -> tuple[str, Values]:
    zone = inputs["zone"]
    disk, asked = inputs["bootDisk"], inputs["bootDisk"]["initializeParams"]
    scheduling = dict(inputs.get("scheduling") or {})
    body = _named(inputs) | {
        "machineType": f"projects/{project}/zones/{zone}/machineTypes/{inputs['machineType']}",
        "labels": inputs.get("labels") or {},
        "tags": {"items": inputs.get("tags") or []},
        "metadata": {
            "items": [{"key": n, "value": v} for n, v in (inputs.get("metadata") or {}).items()]
        },
        "scheduling": scheduling,
        "networkInterfaces": [
            {"subnetwork": each["subnetwork"], "accessConfigs": [{} for _ in each["accessConfigs"]]}
            for each in inputs["networkInterfaces"]
        ],
        "guestAccelerators": [
            {
                "acceleratorType": f"projects/{project}/zones/{zone}/acceleratorTypes/{each['type']}",
                "acceleratorCount": each["count"],
            }
            for each in inputs.get("guestAccelerators") or ()
        ],
        "disks": [
            {
                "boot": True,
                "autoDelete": disk.get("autoDelete", True),
                "initializeParams": {
                    "sourceImage": asked["image"],
                    "diskSizeGb": str(asked["size"]),
                    "diskType": f"projects/{project}/zones/{zone}/diskTypes/{asked['type']}",
                    "labels": asked.get("labels") or {},
                },
            }
        ],
    }
    return f"zones/{zone}", body


def _named(inputs: Values) -> Values:
    return {"name": inputs["name"], "description": inputs.get("description", "")}


_BODIES: dict[str, Callable[[str, Values], tuple[str, Values]]] = {
    "Network": _network,
    "Subnetwork": _subnetwork,
    "Firewall": _firewall,
    "Instance": _instance,
}
