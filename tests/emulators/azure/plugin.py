"""The stand-in for the `azure-native` plugin, in front of the same world as the HTTP server.

As the real one does (pulumi-azure-native, provider/pkg), it turns flat properties into the API's bodies, refuses to make what is
there already, tries four times where the API is busy, waits for an operation, gives the id and the state of what was accepted and
then failed, and writes refusals as `Status=409 Code="..." Message="..."`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.emulators.azure.refusal import ArmError
from tests.emulators.azure.things import Thing
from tests.emulators.azure.world import World
from tests.emulators.plugin import UNKNOWN, HalfMade, Plugin, Refusal, Values

# Of a body beside `properties`; everything else is one of those.
_OUTSIDE = ("id", "name", "type", "location", "tags", "sku", "zones")
# What has properties of its own inside of a resource.
_NESTED = ("securityRules", "ipConfigurations", "publicIPAddress", "networkInterfaces")
# What the real one sends again, and the seconds before each further try, of a cloud whose answer names none itself:
# client_azcore.go, initPipelineOpts. Three retries are azcore's default: azure-sdk-for-go, sdk/azcore/policy, RetryOptions.
_PASSING = frozenset((408, 429, 500, 502, 503, 504))
_WAITS_S = (20.0, 60.0, 120.0)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class _Kind:
    """One type: what its id ends in, with the names of the properties in it, and what has to be given."""

    path: str
    needs: tuple[str, ...]
    computed: tuple[str, ...] = ()


_GROUP = "/resourceGroups/{resourceGroupName}"
_NETWORK = _GROUP + "/providers/Microsoft.Network"
_KINDS = {
    "azure-native:resources:ResourceGroup": _Kind(_GROUP, ("resourceGroupName",), ("name",)),
    "azure-native:network:NetworkSecurityGroup": _Kind(
        _NETWORK + "/networkSecurityGroups/{networkSecurityGroupName}",
        ("resourceGroupName", "networkSecurityGroupName"),
        ("name",),
    ),
    "azure-native:network:VirtualNetwork": _Kind(
        _NETWORK + "/virtualNetworks/{virtualNetworkName}",
        ("resourceGroupName", "virtualNetworkName"),
        ("name",),
    ),
    "azure-native:network:Subnet": _Kind(
        _NETWORK + "/virtualNetworks/{virtualNetworkName}/subnets/{subnetName}",
        ("resourceGroupName", "virtualNetworkName", "subnetName"),
        ("name",),
    ),
    "azure-native:network:PublicIPAddress": _Kind(
        _NETWORK + "/publicIPAddresses/{publicIpAddressName}",
        ("resourceGroupName", "publicIpAddressName"),
        ("name", "ipAddress"),
    ),
    "azure-native:network:NetworkInterface": _Kind(
        _NETWORK + "/networkInterfaces/{networkInterfaceName}",
        ("resourceGroupName", "networkInterfaceName"),
        ("name",),
    ),
    "azure-native:compute:VirtualMachine": _Kind(
        _GROUP + "/providers/Microsoft.Compute/virtualMachines/{vmName}",
        ("resourceGroupName", "vmName"),
        ("name", "vmId"),
    ),
}


class AzureNative(Plugin):
    """The plugin."""

    name = "azure-native"
    version = "3.29.0"

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def check(self, type: str, inputs: Values) -> Sequence[tuple[str, str]]:
        kind = _KINDS.get(type)
        if kind is None:
            return [("", f"{type} is not known here")]
        return [
            (name, f"missing required property '{name}'")
            for name in kind.needs
            if not inputs.get(name)
        ]

    def planned(self, type: str, inputs: Values) -> Values:
        return {**inputs, **dict.fromkeys(_KINDS[type].computed, UNKNOWN)}

    def create(self, configuration: Values, type: str, inputs: Values) -> tuple[str, Values]:
        kind = _KINDS[type]
        id = f"/subscriptions/{self._subscription(configuration)}{kind.path.format(**inputs)}"
        body = _body({name: value for name, value in inputs.items() if name not in kind.needs})
        if self._is_there(id):
            raise Refusal(f"cannot create already existing resource '{id}'")
        try:
            thing, operation = self._sent(lambda: self._world.put(id, body))
        except ArmError as error:
            raise Refusal(_text(error)) from error
        try:
            self._world.wait(operation)
        except ArmError as error:
            raise self._half_made(id, error) from error
        return id, _outputs(thing)

    def delete(self, configuration: Values, type: str, id: str, outputs: Values) -> None:
        try:
            operation = self._sent(lambda: self._world.delete(id))
            if operation is not None:
                self._world.wait(operation)
        except ArmError as error:
            if error.status != 404:
                raise Refusal(_text(error)) from error

    def _sent(self, ask: Callable[[], _Answer]) -> _Answer:
        """The answer to a request that is sent again while the API is busy; how an accepted operation ends is another matter."""
        for wait_s in _WAITS_S:
            try:
                return ask()
            except ArmError as error:
                if error.status not in _PASSING and error.code != "AnotherOperationInProgress":
                    raise
                scaled_s = wait_s / self._world.options.time_scale
                time.sleep(scaled_s if error.retry_after_s is None else error.retry_after_s)
        return ask()

    def _half_made(self, id: str, error: ArmError) -> Exception:
        """It was accepted: what can be read of it now goes with the error."""
        try:
            return HalfMade(id, _outputs(self._world.get(id)), _text(error))
        except ArmError as unread:
            return Refusal(
                f"resource partially created but read failed {_text(unread)}: {_text(error)}"
            )

    def _is_there(self, id: str) -> bool:
        # A group is made without this question, by the real one too: its PUT only ever sets tags.
        try:
            self._world.get(id)
        except ArmError as error:
            if error.status != 404:
                raise Refusal(_text(error)) from error
            return False
        return True

    def _subscription(self, configuration: Values) -> str:
        given = configuration.get("subscriptionId")
        if not given:
            raise Refusal(
                "no subscription ID: set ARM_SUBSCRIPTION_ID, or subscriptionId of the provider"
            )
        return str(given)


def _text(error: ArmError) -> str:
    return f'Status={error.status} Code="{error.code}" Message="{error.message}"'


def _body(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """With `properties` put where the API has them."""
    body: dict[str, Any] = {}
    for name, value in inputs.items():
        place = body if name in _OUTSIDE else body.setdefault("properties", {})
        place[name] = _nested(name, value)
    return body


def _nested(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_body(each) if name in _NESTED else _nested("", each) for each in value]
    if isinstance(value, Mapping):
        inner = {key: _nested(key, each) for key, each in value.items()}
        return _body(value) if name in _NESTED else inner
    return value


def _outputs(thing: Thing) -> Values:
    """Flat again; what the API never gives back is left out."""
    shown = {
        name: value for name, value in thing.body.items() if name in ("location", "tags", "sku")
    }
    properties = {n: v for n, v in thing.properties.items() if n not in ("osProfile",)}
    if system := thing.properties.get("osProfile"):
        properties["osProfile"] = {n: v for n, v in system.items() if n != "customData"}
    return {
        **shown,
        **properties,
        "name": thing.id.name,
        "type": thing.id.type,
        "provisioningState": thing.state,
    }
