"""What a run has at Azure, put there as the API takes it, without an engine; and a run to name it after."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dayfly.infra import azure_images, azure_names
from dayfly.infra.azure_resources import ssh_rule
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run, new_id
from tests.emulators.azure.options import SUBSCRIPTION
from tests.emulators.azure.things import Thing
from tests.emulators.azure.world import World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmN1qfmSaKVMxLQ1pVHJ8cK8lKNpsm9eZqYcOqsBb5p"
OFFER = Offer("azure", "eastus", "Standard_NC4as_T4_v3", 4, 28 << 30, 0.526, 1, "T4")


def run(directory: Path, owner: str = "me") -> Run:
    """One that has no machine yet."""
    return Run(new_id(), owner, time.time(), time.time() + 3600, directory, KEY, KEY)


def id_of(group: str, path: str = "") -> str:
    """Of a group, or of what is in it: "Network/networkInterfaces/interface"."""
    inside = f"/providers/Microsoft.{path}" if path else ""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}{inside}"


def bodies(group: str, name: str, tags: Mapping[str, str], *, spot: bool = False) -> dict[str, Any]:
    """All of a run with one machine, by path, in an order in which it can be made."""
    common = {"location": "eastus", "tags": dict(tags)}
    rule = {"name": "ssh", "properties": ssh_rule("203.0.113.9/32")}
    names = ("publisher", "offer", "sku", "version")
    way = {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
    at = {
        path: id_of(group, f"Network/{path}")
        for path in (
            "networkSecurityGroups/firewall",
            "virtualNetworks/network/subnets/machines",
            "publicIPAddresses/address",
            "networkInterfaces/interface",
        )
    }
    guard, subnet, address, interface = at.values()
    return {
        "": common | {"tags": dict(tags) | ({"dayfly-spot": "true"} if spot else {})},
        "Network/networkSecurityGroups/firewall": common
        | {"properties": {"securityRules": [rule]}},
        "Network/virtualNetworks/network": common
        | {"properties": {"addressSpace": {"addressPrefixes": ["10.77.0.0/16"]}}},
        "Network/virtualNetworks/network/subnets/machines": {
            "properties": {"addressPrefix": "10.77.0.0/24", "networkSecurityGroup": {"id": guard}}
        },
        "Network/publicIPAddresses/address": common
        | {
            "sku": {"name": "Standard"},
            "properties": {"publicIPAllocationMethod": "Static", "deleteOption": "Delete"},
        },
        "Network/networkInterfaces/interface": common
        | {
            "properties": {
                "ipConfigurations": [
                    {
                        "name": "first",
                        "properties": {
                            "subnet": {"id": subnet},
                            "publicIPAddress": {"id": address},
                            "privateIPAllocationMethod": "Dynamic",
                        },
                    }
                ]
            }
        },
        f"Compute/virtualMachines/{name}": common
        | {
            "properties": {
                "hardwareProfile": {"vmSize": "Standard_NC4as_T4_v3"},
                "storageProfile": {
                    "imageReference": dict(zip(names, azure_images.GPU.split(":"), strict=True)),
                    "osDisk": {
                        "createOption": "FromImage",
                        "deleteOption": "Delete",
                        "diskSizeGB": 128,
                        "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
                    },
                },
                "osProfile": {
                    "computerName": "machine",
                    "adminUsername": "ubuntu",
                    "customData": base64.b64encode(b"#cloud-config\n").decode(),
                    "linuxConfiguration": {
                        "disablePasswordAuthentication": True,
                        "ssh": {
                            "publicKeys": [
                                {"path": "/home/ubuntu/.ssh/authorized_keys", "keyData": KEY}
                            ]
                        },
                    },
                },
                "networkProfile": {
                    "networkInterfaces": [
                        {"id": interface, "properties": {"deleteOption": "Delete"}}
                    ]
                },
                **(way if spot else {}),
            }
        },
    }


def put(
    world: World, group: str, name: str, tags: Mapping[str, str], *, spot: bool = False
) -> Thing:
    """Makes all of it.

    Returns:
        The machine.
    """
    for path, body in bodies(group, name, tags, spot=spot).items():
        thing, operation = world.put(id_of(group, path), body)
        world.wait(operation)
    return thing


def put_run(world: World, run: Run, *, spot: bool = False) -> Thing:
    """Makes all that a run declares."""
    return put(
        world, azure_names.group_of(run), azure_names.machine_of(run, 0), run.tags, spot=spot
    )
