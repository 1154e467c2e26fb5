"""Azure's emulator keeps the documented rules: over HTTP as any client meets them, and in what the plugin makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from dayfly.infra import azure_names
from tests.azure_things import bodies, id_of, put, put_run, run
from tests.emulators.azure import Emulator, Options
from tests.emulators.azure.plugin import AzureNative
from tests.emulators.azure.refusal import ArmError
from tests.emulators.plugin import UNKNOWN, HalfMade, Refusal

_VM = "Compute/virtualMachines/machine"


@pytest.fixture
def azure() -> Iterator[Emulator]:
    """Without machines, and with little to wait for."""
    options = Options(
        machines=False, create_s=0.2, delete_s=0, group_delete_s=0, cores=8, addresses=2
    )
    with Emulator(options) as emulator:
        yield emulator


class Client:
    """Whoever has a token."""

    def __init__(self, azure: Emulator) -> None:
        self.azure = azure
        header = azure.environment()["IDENTITY_HEADER"]
        answer = requests.get(
            f"{azure.url}/msi/token?resource=https://management.azure.com&api-version=2019-08-01",
            headers={"X-IDENTITY-HEADER": header},
            timeout=10,
        )
        self.headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def ask(
        self, method: str, path: str, body: Any = None, version: str = "?api-version=2024-07-01"
    ) -> Any:
        """One request."""
        return requests.request(
            method, f"{self.azure.url}{path}{version}", json=body, headers=self.headers, timeout=10
        )


def test_a_request_needs_a_token_a_version_and_a_subscription_that_is_there(
    azure: Emulator,
) -> None:
    """Each refusal in the API's envelope."""
    client, group = Client(azure), id_of("group")
    assert (
        requests.get(azure.url + group, timeout=10).json()["error"]["code"]
        == "AuthenticationFailed"
    )
    bare = client.ask("GET", group, version="")
    assert (bare.status_code, bare.json()["error"]["code"]) == (400, "MissingApiVersionParameter")
    odd = client.ask("GET", group, version="?api-version=latest")
    assert odd.json()["error"]["code"] == "InvalidApiVersionParameter"
    other = client.ask("GET", group.replace("6f1d2c3b", "7f1d2c3b"))
    assert (other.status_code, other.json()["error"]["code"]) == (404, "SubscriptionNotFound")
    gone = client.ask("GET", group)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "ResourceGroupNotFound")
    wrong = requests.get(f"{azure.url}/msi/token", headers={"X-IDENTITY-HEADER": "x"}, timeout=10)
    assert wrong.status_code == 401


def test_an_operation_is_followed_to_its_end_either_way(azure: Emulator) -> None:
    """By its status, or until the other address says 200."""
    client = Client(azure)
    put(azure.world, "group", "machine", {"a": "b"})
    told = client.ask("DELETE", id_of("group", _VM))
    assert told.status_code == 202
    for header, done in (("Azure-AsyncOperation", "Succeeded"), ("Location", None)):
        while True:
            answer = requests.get(told.headers[header], headers=client.headers, timeout=10)
            if (answer.json()["status"] if done else answer.status_code) in (done, 200):
                break
    assert client.ask("GET", id_of("group", _VM)).status_code == 404
    azure.fault("AllocationFailed", late=True)
    body = bodies("group", "machine", {})
    azure.world.put(
        id_of("group", "Network/publicIPAddresses/address"),
        body["Network/publicIPAddresses/address"],
    )
    azure.world.put(
        id_of("group", "Network/networkInterfaces/interface"),
        body["Network/networkInterfaces/interface"],
    )
    accepted = client.ask("PUT", id_of("group", _VM), body[_VM])
    assert (accepted.status_code, accepted.json()["properties"]["provisioningState"]) == (
        201,
        "Creating",
    )
    assert "customData" not in accepted.text
    while True:
        status = requests.get(
            accepted.headers["Azure-AsyncOperation"], headers=client.headers, timeout=10
        ).json()
        if status["status"] != "InProgress":
            break
    assert (status["status"], status["error"]["code"]) == ("Failed", "AllocationFailed")
    left = client.ask("GET", id_of("group", _VM)).json()
    assert left["properties"]["provisioningState"] == "Failed"


def _changed(path: str, *keys: Any, to: Any) -> tuple[str, dict[str, Any]]:
    """The body of one resource with one value another, or without it where that is None."""
    body = copy.deepcopy(bodies("group", "machine", {"a": "b"})[path])
    inner = body
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return path, body


_P, _OS = "properties", ("properties", "osProfile")
_LINUX = (*_OS, "linuxConfiguration")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (_changed("", "location", to=None), "LocationRequired"),
        (_changed("", "location", to="moon"), "LocationNotAvailableForResourceGroup"),
        (_changed(_VM, "location", to="westus"), "InvalidResourceReference"),
        (_changed(_VM, "tags", to={str(n): "" for n in range(51)}), "InvalidTagCount"),
        (_changed(_VM, "tags", to={"a/b": "c"}), "InvalidTagNameOrValue"),
        (_changed(_VM, _P, "hardwareProfile", to=None), "InvalidParameter"),
        (_changed(_VM, _P, "hardwareProfile", "vmSize", to="Standard_Z1"), "InvalidParameter"),
        (_changed(_VM, _P, "storageProfile", "osDisk", "diskSizeGB", to=30), "InvalidParameter"),
        (
            _changed(_VM, _P, "storageProfile", "imageReference", "sku", to="2604"),
            "PlatformImageNotFound",
        ),
        (_changed(_VM, *_OS, "adminUsername", to="admin"), "InvalidParameter"),
        (_changed(_VM, *_OS, "customData", to="#cloud-config"), "InvalidParameter"),
        (_changed(_VM, *_OS, "computerName", to="123"), "InvalidParameter"),
        (_changed(_VM, *_LINUX, "ssh", "publicKeys", 0, "keyData", to="x"), "InvalidParameter"),
        (_changed(_VM, *_LINUX, "ssh", "publicKeys", 0, "path", to="/x"), "InvalidParameter"),
        (_changed(_VM, _P, "evictionPolicy", to="Delete"), "InvalidParameter"),
        (
            _changed(
                _VM,
                _P,
                "networkProfile",
                "networkInterfaces",
                0,
                "id",
                to=id_of("group", "Network/networkInterfaces/no"),
            ),
            "InvalidResourceReference",
        ),
        (
            _changed("Network/publicIPAddresses/address", "sku", to={"name": "Basic"}),
            "BasicSkuPublicIpRetired",
        ),
        (
            _changed(
                "Network/publicIPAddresses/address", _P, "publicIPAllocationMethod", to="Dynamic"
            ),
            "StandardSkuPublicIPAddressMustBeStatic",
        ),
        (
            _changed(
                "Network/networkSecurityGroups/firewall",
                _P,
                "securityRules",
                0,
                _P,
                "priority",
                to=1,
            ),
            "SecurityRuleInvalidPriority",
        ),
        (
            _changed(
                "Network/virtualNetworks/network",
                _P,
                "addressSpace",
                to={"addressPrefixes": ["10.0.0.1/8"]},
            ),
            "InvalidCIDRNotation",
        ),
    ],
)
def test_what_is_not_as_documented_is_refused(
    azure: Emulator, asked: tuple[str, dict[str, Any]], code: str
) -> None:
    """Everything else of it being there."""
    path, body = asked
    for each, good in bodies("group", "machine", {"a": "b"}).items():
        if each == path:
            with pytest.raises(ArmError) as caught:
                azure.world.put(id_of("group", path), body)
            assert caught.value.code == code, caught.value.message
            return
        azure.world.wait(azure.world.put(id_of("group", each), good)[1])


def test_names_quotas_and_parents_are_minded(azure: Emulator, tmp_path: Path) -> None:
    """Cores and addresses are counted by region; a part needs its whole, a thing its group."""
    mine = run(tmp_path)
    put_run(azure.world, mine)
    body = bodies("group", "machine", {})
    for group, path, of, code in (
        ("group", _VM, _VM, "ResourceGroupNotFound"),
        ("a" * 91, "", "", "InvalidResourceGroupName"),
        (f"dayfly-{mine.id}", f"Compute/virtualMachines/{'m' * 65}", _VM, "InvalidParameter"),
        (
            f"dayfly-{mine.id}",
            "Network/virtualNetworks/n",
            "Network/virtualNetworks/network",
            "InvalidResourceName",
        ),
        (
            f"dayfly-{mine.id}",
            "Network/virtualNetworks/other/subnets/machines",
            "Network/virtualNetworks/network/subnets/machines",
            "ParentResourceNotFound",
        ),
    ):
        with pytest.raises(ArmError) as caught:
            azure.world.put(id_of(group, path), body[of])
        assert caught.value.code == code, caught.value.message
    put(azure.world, "second", "machine", {})
    with pytest.raises(ArmError) as caught:
        put(azure.world, "third", "machine", {})
    assert caught.value.code == "PublicIPCountLimitReached"
    azure.world.delete_by_hand(id_of("third"))
    azure.world.delete_by_hand(id_of("second", _VM))
    body = bodies("second", "machine", {})
    for path in ("Network/publicIPAddresses/address", "Network/networkInterfaces/interface"):
        azure.world.wait(azure.world.put(id_of("second", path), body[path])[1])
    body[_VM]["properties"]["hardwareProfile"]["vmSize"] = "Standard_NC8as_T4_v3"
    with pytest.raises(
        ArmError, match=r"Current Limit: 8, Current Usage: 4, Additional Required: 8"
    ) as caught:
        azure.world.put(id_of("second", _VM), body[_VM])
    assert caught.value.code == "OperationNotAllowed"


def test_what_is_in_use_is_not_deleted_and_a_group_takes_all_with_it(azure: Emulator) -> None:
    """In whatever order that has to be; nothing new comes into a group that is ending."""
    put(azure.world, "group", "machine", {})
    for path, code in (
        ("Network/networkInterfaces/interface", "NicInUse"),
        ("Network/publicIPAddresses/address", "PublicIPAddressCannotBeDeleted"),
        ("Network/virtualNetworks/network/subnets/machines", "InUseSubnetCannotBeDeleted"),
        ("Network/virtualNetworks/network", "InUseSubnetCannotBeDeleted"),
        ("Network/networkSecurityGroups/firewall", "InUseNetworkSecurityGroupCannotBeDeleted"),
        ("Compute/disks/machine_OsDisk", "OperationNotAllowed"),
    ):
        with pytest.raises(ArmError) as caught:
            azure.world.delete(id_of("group", path))
        assert caught.value.code == code
    azure.world.get(id_of("group")).state = "Deleting"
    with pytest.raises(ArmError) as caught:
        azure.world.put(id_of("group"), {"location": "eastus"})
    assert caught.value.code == "ResourceGroupBeingDeleted"
    with pytest.raises(ArmError) as caught:
        put(azure.world, "group", "other", {})
    assert caught.value.code == "ResourceGroupBeingDeleted"
    azure.world.delete_by_hand(id_of("group"))
    assert azure.world.all() == []
    ended = [id.rpartition("/")[2] for event, id in azure.world.events if event == "gone"]
    assert ended[0] == "machine"
    assert ended[-1] == "group"
    assert set(ended[1:4]) == {"machine_OsDisk", "interface", "address"}


def test_the_plugin_previews_makes_and_refuses_as_the_real_one_does(azure: Emulator) -> None:
    """In its words; what was accepted and then failed comes with its id."""
    plugin, known = AzureNative(azure.world), {"subscriptionId": azure.world.subscription}
    kind = "azure-native:resources:ResourceGroup"
    assert plugin.check("azure-native:compute:Disk", {}) == [
        ("", "azure-native:compute:Disk is not known here")
    ]
    assert plugin.check(kind, {})[0][0] == "resourceGroupName"
    inputs = {"resourceGroupName": "group", "location": "eastus", "tags": {"a": "b"}}
    assert plugin.check(kind, {**inputs, "resourceGroupName": UNKNOWN}) == []
    assert plugin.planned(kind, inputs)["name"] == UNKNOWN
    with pytest.raises(Refusal, match="no subscription ID"):
        plugin.create({}, kind, inputs)
    id, outputs = plugin.create(known, kind, inputs)
    assert id == id_of("group")
    assert (outputs["name"], outputs["tags"]) == ("group", {"a": "b"})
    with pytest.raises(Refusal, match="cannot create already existing resource '/subscriptions"):
        plugin.create(known, kind, inputs)
    network = {"resourceGroupName": "group", "publicIpAddressName": "address", "location": "eastus"}
    with pytest.raises(Refusal) as caught:
        plugin.create(known, "azure-native:network:PublicIPAddress", network)
    assert str(caught.value).startswith('Status=400 Code="BasicSkuPublicIpRetired" Message="')
    put(azure.world, "other", "machine", {})
    body = azure.world.get(id_of("other", _VM)).body
    azure.world.delete_by_hand(id_of("other", _VM))
    parts = bodies("other", "machine", {})
    for path in ("Network/publicIPAddresses/address", "Network/networkInterfaces/interface"):
        azure.world.wait(azure.world.put(id_of("other", path), parts[path])[1])
    azure.fault("AllocationFailed", late=True)
    flat = {
        "resourceGroupName": "other",
        "vmName": "machine",
        **{k: v for k, v in body.items() if k != "properties"},
    }
    with pytest.raises(HalfMade) as half:
        plugin.create(known, "azure-native:compute:VirtualMachine", {**flat, **body["properties"]})
    assert half.value.id == id_of("other", _VM)
    assert str(half.value).startswith(
        'Status=200 Code="AllocationFailed" Message="Allocation failed.'
    )
    assert half.value.outputs["provisioningState"] == "Failed"
    plugin.delete(known, kind, id_of("other"), {})
    plugin.delete(known, kind, id_of("other"), {})
    assert azure_names.type_of(half.value.id) == "microsoft.compute/virtualmachines"


def test_the_plugin_tries_four_times_where_the_api_is_busy(azure: Emulator) -> None:
    """Once and three times more, as it waits in between; a refusal of another kind is told at once."""
    plugin, known = AzureNative(azure.world), {"subscriptionId": azure.world.subscription}
    kind = "azure-native:resources:ResourceGroup"
    inputs = {"resourceGroupName": "group", "location": "eastus"}
    azure.fault("TooManyRequests", type="", times=3)
    id, _ = plugin.create(known, kind, inputs)
    azure.fault("InternalServerError", act="delete", type="", times=5)
    with pytest.raises(Refusal, match='Status=500 Code="InternalServerError"'):
        plugin.delete(known, kind, id, {})
    plugin.delete(known, kind, id, {})
    assert azure.world.all() == []
    azure.fault("AuthorizationFailed", type="", times=2)
    for _ in range(2):
        with pytest.raises(Refusal, match='Status=403 Code="AuthorizationFailed"'):
            plugin.create(known, kind, inputs)
    plugin.create(known, kind, inputs)
