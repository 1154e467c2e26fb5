"""Resources as the API shows them."""

from __future__ import annotations

from typing import Any

from tests.emulators.azure import rules
from tests.emulators.azure.things import Thing


def as_json(thing: Thing, *, view: bool = False) -> dict[str, Any]:
    """One resource.

    Args:
        view: whether a virtual machine comes with its instance view.
    """
    properties = {**thing.properties, "provisioningState": thing.state}
    if system := properties.get("osProfile"):
        # It is never given back.
        properties["osProfile"] = {n: v for n, v in system.items() if n != "customData"}
    if view:
        properties["instanceView"] = instance_view(thing)
    shown: dict[str, Any] = {
        "id": thing.id.text,
        "name": thing.id.name,
        "type": thing.id.type or "Microsoft.Resources/resourceGroups",
        "properties": properties,
    }
    for name in ("location", "tags", "sku", "managedBy"):
        if name in thing.body:
            shown[name] = thing.body[name]
    return shown


def generic(thing: Thing) -> dict[str, Any]:
    """As the listing of all resources shows one: without its properties."""
    full = as_json(thing)
    return {name: value for name, value in full.items() if name != "properties"}


def instance_view(vm: Thing) -> dict[str, Any]:
    """How it is just now."""
    assert vm.type == rules.VM
    state = {"Succeeded": "succeeded", "Failed": "failed", "Deleting": "deleting"}.get(
        vm.state, "creating"
    )
    statuses = [{"code": f"ProvisioningState/{state}", "level": "Info"}]
    if vm.since is not None:
        # One that is switched off from within is "stopped", and costs as much.
        off = vm.machine is not None and vm.machine.is_off
        statuses.append({"code": f"PowerState/{'stopped' if off else 'running'}", "level": "Info"})
    return {"statuses": statuses}
