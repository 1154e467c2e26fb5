"""What each type of resource has to be like: names, required properties, and references, as documented.

learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules, and the descriptions of the REST API of
Microsoft.Compute and Microsoft.Network.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.emulators.azure.ids import ResourceId
from tests.emulators.azure.options import IMAGES, Options
from tests.emulators.azure.refusal import ArmError, invalid

Body = Mapping[str, Any]

VM = "microsoft.compute/virtualmachines"
DISK = "microsoft.compute/disks"
NIC = "microsoft.network/networkinterfaces"
ADDRESS = "microsoft.network/publicipaddresses"
NSG = "microsoft.network/networksecuritygroups"
RULE = "microsoft.network/networksecuritygroups/securityrules"
VNET = "microsoft.network/virtualnetworks"
SUBNET = "microsoft.network/virtualnetworks/subnets"
# Parts of another carry neither a place nor tags of their own.
PARTS = (SUBNET, RULE)
_NETWORK_NAME = re.compile(r"[a-zA-Z0-9](?:[\w.-]{0,78}\w)?")
NAMES = {
    VM: re.compile(r"[a-zA-Z0-9](?:[\w.-]{0,62}[\w])?"),
    DISK: re.compile(r"[\w.-]{1,80}"),
    VNET: re.compile(r"[a-zA-Z0-9][\w.-]{0,62}\w"),
    **dict.fromkeys((NIC, ADDRESS, NSG, RULE, SUBNET), _NETWORK_NAME),
}
_GROUP_NAME = re.compile(r"[\w.()-]{0,89}[\w()-]")
_NO_USERS = frozenset(
    ("administrator", "admin", "user", "user1", "test", "root", "guest", "a", "actuser", "adm")
)
_KEY = re.compile(r"(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( .*)?")
_MOST_CUSTOM_DATA = 64 << 10
_MOST_TAGS = 50


def check_group(name: str, body: Body, options: Options) -> None:
    """Before a resource group is made."""
    if not _GROUP_NAME.fullmatch(name):
        raise invalid(
            f"The provided resource group name '{name}' is not valid.", "InvalidResourceGroupName"
        )
    check_place(body, options, "LocationNotAvailableForResourceGroup")
    check_tags(body)


def check(id: ResourceId, body: Body, options: Options) -> None:
    """Before a resource of a known type is made: all that can be told from itself alone."""
    type = id.type.lower()
    if type not in NAMES:
        raise invalid(f"The resource type '{id.type}' could not be found.", "InvalidResourceType")
    if not NAMES[type].fullmatch(id.name):
        code = "InvalidParameter" if type == VM else "InvalidResourceName"
        raise invalid(f"Resource name {id.name} is invalid for {id.type}.", code)
    if type not in PARTS:
        check_place(body, options, "LocationNotAvailableForResourceType")
        check_tags(body)
    if type in _CHECKS:
        _CHECKS[type](body, options)


def check_place(body: Body, options: Options, code: str) -> None:
    """Everything lies somewhere."""
    location = body.get("location")
    if not location:
        raise invalid("The location property is required for this definition.", "LocationRequired")
    if location not in options.regions:
        raise invalid(f"The provided location '{location}' is not available.", code)


def check_tags(body: Body) -> None:
    """At most 50, short, of text."""
    tags = body.get("tags") or {}
    if len(tags) > _MOST_TAGS:
        raise invalid(
            f"The number of tags '{len(tags)}' exceeds '{_MOST_TAGS}'.", "InvalidTagCount"
        )
    for name, value in tags.items():
        if (
            not isinstance(value, str)
            or len(value) > 256
            or len(name) > 512
            or set(name) & set("<>%&\\?/")
        ):
            raise invalid(f"The tag '{name}' is not valid.", "InvalidTagNameOrValue")


def need(body: Body, path: str) -> Any:
    """A property by its path, which has to be there."""
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
        if value in (None, "", [], {}):
            raise invalid(
                f"Required parameter '{path.removeprefix('properties.')}' is missing (null)."
            )
    return value


def image_gb(reference: Body) -> int:
    """GiB of an image's disk; it has to be there."""
    if reference.get("id"):
        return 64
    names = tuple(str(reference.get(name, "")).lower() for name in ("publisher", "offer", "sku"))
    if names not in IMAGES or not reference.get("version"):
        shown = ":".join((*names, str(reference.get("version", ""))))
        raise ArmError(
            404, "PlatformImageNotFound", f"The platform image '{shown}' is not available."
        )
    return IMAGES[names[0], names[1], names[2]]


def _machine(body: Body, options: Options) -> None:
    size = need(body, "properties.hardwareProfile.vmSize")
    if size not in options.sizes:
        raise invalid(f"The value {size} provided for the VM size is not valid.")
    _disk(need(body, "properties.storageProfile"))
    _system(need(body, "properties.osProfile"))
    _ways(body["properties"])
    for each in need(body, "properties.networkProfile.networkInterfaces"):
        need(each, "id")


def _disk(storage: Body) -> None:
    least = image_gb(need(storage, "imageReference"))
    if need(storage, "osDisk.createOption") != "FromImage":
        raise invalid("osDisk.createOption has to be FromImage for a platform image.")
    need(storage, "osDisk.managedDisk.storageAccountType")
    size = storage["osDisk"].get("diskSizeGB", least)
    if not least <= size <= 4095:
        raise invalid(
            f"The specified disk size {size} GB is smaller than the size of the corresponding disk in the VM image: {least} GB,"
            " or larger than 4095 GB.",
        )


def _system(system: Body) -> None:
    computer, user = need(system, "computerName"), need(system, "adminUsername")
    if len(computer) > 64 or computer.isdecimal() or not re.fullmatch(r"[\w-]+", computer):
        raise invalid(f"The computerName {computer} is not valid.")
    if user.lower() in _NO_USERS:
        raise invalid("The Admin Username specified is not allowed.")
    if not need(system, "linuxConfiguration.disablePasswordAuthentication"):
        need(system, "adminPassword")
    for key in need(system, "linuxConfiguration.ssh.publicKeys"):
        if need(key, "path") != f"/home/{user}/.ssh/authorized_keys":
            raise invalid(
                "Destination path for SSH public keys is currently limited to its default value."
            )
        if not _KEY.fullmatch(need(key, "keyData")):
            raise invalid(
                "The value of parameter linuxConfiguration.ssh.publicKeys.keyData is invalid."
            )
    try:
        data = base64.b64decode(system.get("customData") or "", validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Custom data in OSProfile must be in Base64 encoding.") from None
    if len(data) > _MOST_CUSTOM_DATA:
        raise invalid("Custom data in OSProfile is too long.")


def _ways(properties: Body) -> None:
    spot = properties.get("priority", "Regular") == "Spot"
    for name in ("evictionPolicy", "billingProfile"):
        if properties.get(name) and not spot:
            raise invalid(f"{name} can only be set on Azure Spot Virtual Machines.")
    price = (properties.get("billingProfile") or {}).get("maxPrice", -1)
    if price != -1 and (price <= 0 or round(price, 5) != price):
        raise invalid(f"The max price {price} has to be -1, or positive with 5 decimals at most.")
    if properties.get("evictionPolicy", "Delete") not in ("Delete", "Deallocate"):
        raise invalid("evictionPolicy has to be Delete or Deallocate.")


def _interface(body: Body, _: Options) -> None:
    for each in need(body, "properties.ipConfigurations"):
        need(each, "name")
        need(each, "properties.subnet.id")
        if each["properties"].get("privateIPAllocationMethod") == "Static":
            need(each, "properties.privateIPAddress")


def _address(body: Body, _: Options) -> None:
    if (body.get("sku") or {}).get("name") != "Standard":
        raise invalid(
            "Basic public addresses have been retired; use Standard.", "BasicSkuPublicIpRetired"
        )
    if (body.get("properties") or {}).get("publicIPAllocationMethod") != "Static":
        raise invalid(
            "Standard sku publicIp must have AllocationMethod set to Static.",
            "StandardSkuPublicIPAddressMustBeStatic",
        )


def _firewall(body: Body, _: Options) -> None:
    rules = (body.get("properties") or {}).get("securityRules") or ()
    seen: set[tuple[int, str]] = set()
    for each in rules:
        need(each, "name")
        check_rule(each["properties"], seen)


def check_rule(rule: Body, taken: set[tuple[int, str]]) -> None:
    """One rule beside others, whose priorities and directions are taken."""
    names = ("direction", "access", "protocol", "sourcePortRange", "destinationPortRange")
    for name in (*names, "sourceAddressPrefix", "destinationAddressPrefix"):
        need(rule, name)
    place = int(need(rule, "priority")), rule["direction"]
    if not 100 <= place[0] <= 4096:
        raise invalid(
            "Security rule priority must be between 100 and 4096.", "SecurityRuleInvalidPriority"
        )
    if place in taken:
        raise invalid(f"Security rule priority {place[0]} is taken.", "SecurityRuleConflict")
    taken.add(place)


def _network(body: Body, _: Options) -> None:
    for prefix in need(body, "properties.addressSpace.addressPrefixes"):
        _prefix(prefix)


def _subnet(body: Body, _: Options) -> None:
    _prefix(need(body, "properties.addressPrefix"))


def _prefix(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        raise invalid(f"Address prefix {text} is invalid.", "InvalidCIDRNotation") from None


def _rule(body: Body, _: Options) -> None:
    need(body, "properties")


_CHECKS: Mapping[str, Callable[[Body, Options], None]] = {
    VM: _machine,
    NIC: _interface,
    ADDRESS: _address,
    NSG: _firewall,
    RULE: _rule,
    VNET: _network,
    SUBNET: _subnet,
}


def references(type: str, body: Body) -> Iterator[str]:
    """Ids of what a resource names and needs."""
    properties = body.get("properties") or {}
    if type == VM:
        yield from (each["id"] for each in properties["networkProfile"]["networkInterfaces"])
    elif type == NIC:
        for each in properties["ipConfigurations"]:
            yield each["properties"]["subnet"]["id"]
            if address := each["properties"].get("publicIPAddress"):
                yield address["id"]
    elif type == SUBNET and (firewall := properties.get("networkSecurityGroup")):
        yield firewall["id"]
