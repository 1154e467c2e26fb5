"""The program that a run declares at Azure: exactly these resources, tagged, closed but for one network, with one secret."""

from __future__ import annotations

import base64
import fnmatch
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dayfly.infra import azure_beside, azure_images, providers
from dayfly.infra.offers import Offer
from dayfly.infra.spec import Spec
from dayfly.stacks import recorder
from tests import declared
from tests.azure_things import OFFER, run
from tests.declared import Declared

_TYPES = {
    "azure": "pulumi:providers:azure-native",
    "group": "azure-native:resources:ResourceGroup",
    "firewall": "azure-native:network:NetworkSecurityGroup",
    "network": "azure-native:network:VirtualNetwork",
    "subnet": "azure-native:network:Subnet",
    "address": "azure-native:network:PublicIPAddress",
    "interface": "azure-native:network:NetworkInterface",
    "machine": "azure-native:compute:VirtualMachine",
}


Program = tuple[dict[str, Declared], dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def sdk() -> None:
    """Loaded once, for all of the forks that a program runs in."""
    import pulumi_azure_native as azure

    # They are loaded by the first who asks for something in them.
    for module in (azure.resources, azure.network, azure.compute):
        dir(module)


def _program(directory: Path, offer: Offer = OFFER, **fields: Any) -> Program:
    """What is declared, by name, and the run's tags."""
    spec = Spec(provider="azure", **{"allow_cidr": "203.0.113.7/32", **fields})
    mine = run(directory)
    mine.host_key_file().write_text("-----BEGIN KEY-----\nprivate\n")
    return {each.name: each for each in declared.by(spec, offer, mine)}, mine.tags


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Of one machine."""
    return _program(tmp_path_factory.mktemp("run"))


def _image(text: str) -> dict[str, str]:
    names = ("publisher", "offer", "sku", "version")
    return dict(zip(names, text.split(":"), strict=True))


def _strings(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in _strings(each)]
    return [value] if isinstance(value, str) else []


def test_exactly_these_resources_each_with_the_run_s_tags(ordinary: Program) -> None:
    """But for the subnet, which is a part of a network and has none."""
    found, tags = ordinary
    assert {name: each.type for name, each in found.items()} == _TYPES
    for name, each in found.items():
        if name not in ("azure", "subnet"):
            assert each.inputs["tags"] == tags, name
            assert each.inputs["location"] == "eastus", name
    groups = {each.inputs.get("resourceGroupName") for n, each in found.items() if n != "azure"}
    assert groups == {f"dayfly-{tags['dayfly-run']}"}


def test_the_provider_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It logs in by what its environment refers to, as Azure's own SDK does."""
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "hunter2")
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "6f1d2c3b-0000-4a5e-9b7c-0123456789ab")
    found, _ = _program(tmp_path)
    assert found["azure"].inputs["useDefaultAzureCredential"] == "true"
    assert found["azure"].inputs["location"] == "eastus"
    assert "hunter2" not in "".join(t for each in found.values() for t in _strings(each.inputs))


def test_only_one_network_is_let_in_and_to_one_port(ordinary: Program) -> None:
    """Nobody else: the last rule of a security group lets no other in."""
    found, _ = ordinary
    (rule,) = found["firewall"].inputs["securityRules"]
    assert rule["sourceAddressPrefix"] == "203.0.113.7/32"
    assert rule["destinationPortRange"] == "22"
    assert (rule["direction"], rule["access"], rule["protocol"]) == ("Inbound", "Allow", "Tcp")
    assert found["subnet"].inputs["networkSecurityGroup"] == {"id": "firewall-id"}
    assert "0.0.0.0/0" not in _strings(rule)


def test_disk_interface_and_address_go_with_the_machine(ordinary: Program) -> None:
    """The one disk is managed, and takes the keys of Azure's own that are there unless others are named."""
    found, _ = ordinary
    machine = found["machine"].inputs
    assert machine["storageProfile"] == {
        "imageReference": _image(azure_images.GPU),
        # Azure encrypts a managed disk at rest, with keys of its own where neither `diskEncryptionSet` nor `securityProfile` names
        # others: learn.microsoft.com/azure/virtual-machines/disk-encryption, "Platform-managed keys".
        "osDisk": {
            "createOption": "FromImage",
            "deleteOption": "Delete",
            "diskSizeGB": 128,
            "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
        },
    }
    (interface,) = machine["networkProfile"]["networkInterfaces"]
    assert interface == {"id": "interface-id", "primary": True, "deleteOption": "Delete"}
    address = found["address"].inputs
    assert (address["deleteOption"], address["publicIPAllocationMethod"]) == ("Delete", "Static")
    assert "securityProfile" not in machine


def test_no_network_leads_to_a_disk() -> None:
    """`publicNetworkAccess` is no property of a disk that comes with its machine, as the SDK has Azure's own schema; it can be read
    through a network only by an address with a signature, which the role of a run has no permission to ask for."""
    from pulumi_azure_native import compute

    ways = ("public_network_access", "network_access_policy")
    with_machine = (compute.OSDiskArgs, compute.ManagedDiskParametersArgs)
    assert not [name for name in ways for type in with_machine if hasattr(type, name)]
    assert hasattr(compute.ManagedDiskParametersArgs, "storage_account_type")
    # The names are those that a disk by itself has.
    parameters = inspect.signature(compute.Disk._internal_init).parameters
    assert [name for name in ways if name in parameters] == list(ways)
    role = json.loads((Path(__file__).parents[1] / "docs/policies/azure.json").read_text())
    assert "Microsoft.Compute/disks/delete" in role["Actions"]
    signature = "microsoft.compute/disks/begingetaccess/action"
    assert not [each for each in role["Actions"] if fnmatch.fnmatchcase(signature, each.lower())]


def test_the_host_key_is_a_secret_and_the_only_one(ordinary: Program) -> None:
    """The user logs in with the run's own key, and with no password."""
    found, _ = ordinary
    assert found["machine"].secrets == ("osProfile.customData",)
    assert all(not each.secrets for name, each in found.items() if name != "machine")
    system = found["machine"].inputs["osProfile"]
    assert "    private\n" in base64.b64decode(system["customData"]).decode()
    linux = system["linuxConfiguration"]
    assert linux["disablePasswordAuthentication"] is True
    assert system["adminUsername"] == "ubuntu"
    assert linux["ssh"]["publicKeys"][0]["path"] == "/home/ubuntu/.ssh/authorized_keys"


def test_a_spot_machine_is_deleted_when_it_is_taken_back(tmp_path: Path, ordinary: Program) -> None:
    """At the price of an ordinary one at most; its group says so, for whoever looks for it then."""
    spot = Offer("azure", "eastus", "Standard_NC4as_T4_v3", 4, 28 << 30, 0.149, 1, "T4", spot=True)
    found, tags = _program(tmp_path, spot, spot=True)
    machine = found["machine"].inputs
    assert (machine["priority"], machine["evictionPolicy"]) == ("Spot", "Delete")
    # The rate without disk and address, which is what is paid at most.
    price = machine["billingProfile"]["maxPrice"]
    assert price == pytest.approx(0.149 - azure_beside.usd_per_hour(128), abs=1e-5)
    assert price == round(price, 5)
    assert found["group"].inputs["tags"] == {**tags, "dayfly-spot": "true"}
    other = ordinary[0]["machine"].inputs
    assert other["priority"] == "Regular"
    assert "evictionPolicy" not in other


def test_several_machines_are_in_one_network(tmp_path: Path) -> None:
    """Each with an address of its own, inside and outside."""
    found, tags = _program(tmp_path, nodes=3)
    machines = [each for each in found.values() if each.type == _TYPES["machine"]]
    # Registered when what they need is known, in any order.
    assert sorted(each.inputs["vmName"] for each in machines) == [
        f"dayfly-{tags['dayfly-run']}{suffix}" for suffix in ("", "-1", "-2")
    ]
    inside = {
        each.inputs["ipConfigurations"][0]["privateIPAddress"]
        for each in found.values()
        if each.type == _TYPES["interface"]
    }
    assert inside == {"10.77.0.4", "10.77.0.5", "10.77.0.6"}
    assert len(found) == 5 + 3 * 3


def test_the_recorder_lists_the_same(tmp_path: Path) -> None:
    """What a plan without the engine shows."""
    spec = Spec(provider="azure", allow_cidr="203.0.113.7/32")
    shown = {row["name"]: row["type"] for row in recorder.resources(spec, OFFER, run(tmp_path))}
    assert shown == _TYPES


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        # As pulumi-azure-native writes what the API says: client_azcore.go, PulumiAzcoreResponseError.
        (
            'error: Status=409 Code="SkuNotAvailable" Message="The requested VM size for resource \'Following SKUs have failed'
            " for Capacity Restrictions: Standard_NC4as_T4_v3' is currently not available in location 'eastus'. Please try"
            ' another size or deploy to a different location or different zone."',
            "capacity",
        ),
        (
            "azure-native:compute:VirtualMachine (machine): error: 1 error occurred: * creating failed: Status=200"
            ' Code="AllocationFailed" Message="Allocation failed. We do not have sufficient capacity for the requested VM size'
            ' in this region."',
            "capacity",
        ),
        ('error: Status=200 Code="ZonalAllocationFailed" Message="..."', "capacity"),
        ('error: Status=200 Code="OverconstrainedAllocationRequest" Message="..."', "capacity"),
        (
            'error: Status=409 Code="OperationNotAllowed" Message="Operation could not be completed as it results in exceeding'
            ' approved standardNCASv3_T4Family Cores quota. Additional details - Location: eastus, Current Limit: 0"',
            "quota",
        ),
        ('error: Status=409 Code="QuotaExceeded" Message="..."', "quota"),
        (
            'error: Status=403 Code="AuthorizationFailed" Message="The client does not have authorization"',
            "auth",
        ),
        ('error: Status=429 Code="TooManyRequests" Message="..."', "rate_limit"),
        ('error: Status=400 Code="InvalidParameter" Message="The value is not valid"', "invalid"),
        ('error: Status=500 Code="InternalServerError" Message="..."', "transient"),
        # As an earlier version of it did, with two codes of which the first is not known.
        (
            'error: autorest/azure: Service returned an error. Status=<nil> Code="ResourceDeploymentFailure" Message="..."'
            ' Details=[{Code="SkuNotAvailable"}]',
            "capacity",
        ),
        ('error: Status=418 Code="Teapot" Message="no capacity"', "unknown"),
        ("error: there is no capacity, and the quota is exceeded", "unknown"),
    ],
)
def test_a_refusal_s_kind_is_that_of_its_code(said: str, kind: str) -> None:
    """Prose decides nothing."""
    assert providers.load("azure").failure(said) == kind
