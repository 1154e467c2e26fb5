"""What a run declares at Azure, through pulumi-azure-native: a resource group, and in it all that its machines need.

Only the group is deleted: with it goes whatever it holds, also what no state knows of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dayfly.infra import azure_account, azure_beside, azure_images, azure_names, user_data
from dayfly.infra.caller import Allowed
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

USER = "ubuntu"
FIRST_PRIORITY = 1000
# A machine that cannot be allocated is told so within minutes; its operating system has 20 to report.
_CREATE, _DELETE = "25m", "30m"
# What the program gives the plugin, as a state has it.
SETTINGS = frozenset(
    {
        *("subscriptionId", "location", "useDefaultAzureCredential", "disablePulumiPartnerId"),
        *("environment", "version"),
    }
)
_NETWORK, _SUBNET = "10.77.0.0/16", "10.77.0.0/24"
# Azure keeps the first four addresses of a subnet, and its last.
_FIRST_ADDRESS = 4


def ssh_rule(cidr: str, priority: int = FIRST_PRIORITY) -> dict[str, Any]:
    """Lets a network reach the SSH servers of a run; as the API takes it."""
    return {
        "priority": priority,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": "Tcp",
        "sourceAddressPrefix": cidr,
        "sourcePortRange": "*",
        "destinationAddressPrefix": "*",
        "destinationPortRange": str(SSH_PORT),
    }


class Declaration(NamedTuple):
    """The program of one run, which loads the SDK where it is called."""

    spec: Spec
    offer: Offer
    run: Run
    allowed: Allowed

    def register(self) -> Sequence[Mapping[str, Any]]:
        """Registers everything.

        Returns:
            The outputs of each machine.
        """
        import pulumi
        import pulumi_azure_native as azure

        provider = azure.Provider(
            "azure",
            subscription_id=azure_account.subscription() or None,
            location=self.offer.region,
            # The same chain as azure-identity's own, so that both sides log in as one.
            use_default_azure_credential=True,
            disable_pulumi_partner_id=True,
        )
        timeouts = pulumi.CustomTimeouts(create=_CREATE, delete=_DELETE)
        group = azure.resources.ResourceGroup(
            "group",
            resource_group_name=azure_names.group_of(self.run),
            location=self.offer.region,
            tags=self.run.tags | ({azure_names.SPOT_TAG: "true"} if self.offer.spot else {}),
            opts=pulumi.ResourceOptions(provider=provider, custom_timeouts=timeouts),
        )
        inside = pulumi.ResourceOptions(
            provider=provider, custom_timeouts=timeouts, deleted_with=group, depends_on=[group]
        )
        subnet = self._network(azure, inside)
        return [self._machine(azure, inside, subnet, n) for n in range(self.spec.nodes)]

    @property
    def _common(self) -> Mapping[str, Any]:
        """Of everything in the group but the parts of another; names are plain text, so that a preview knows them."""
        return {
            "resource_group_name": azure_names.group_of(self.run),
            "location": self.offer.region,
            "tags": self.run.tags,
        }

    def _network(self, azure: Any, inside: Any) -> Any:
        """One subnet, which the firewall guards."""
        import pulumi

        firewall = azure.network.NetworkSecurityGroup(
            "firewall",
            network_security_group_name=azure_names.FIREWALL,
            security_rules=[{"name": "ssh", **_snake(ssh_rule(self.allowed.cidr))}],
            **self._common,
            # Another address of this computer changes nothing that is up.
            opts=pulumi.ResourceOptions.merge(
                inside, pulumi.ResourceOptions(ignore_changes=["security_rules"])
            ),
        )
        network = azure.network.VirtualNetwork(
            "network",
            virtual_network_name=azure_names.NETWORK,
            address_space={"address_prefixes": [_NETWORK]},
            **self._common,
            opts=inside,
        )
        return azure.network.Subnet(
            "subnet",
            resource_group_name=azure_names.group_of(self.run),
            virtual_network_name=azure_names.NETWORK,
            subnet_name=azure_names.SUBNET,
            address_prefix=_SUBNET,
            network_security_group={"id": firewall.id},
            opts=pulumi.ResourceOptions.merge(inside, pulumi.ResourceOptions(depends_on=[network])),
        )

    def _machine(self, azure: Any, inside: Any, subnet: Any, node: int) -> Mapping[str, Any]:
        suffix = azure_names.suffix_of(node)
        address = azure.network.PublicIPAddress(
            f"address{suffix}",
            public_ip_address_name=f"address{suffix}",
            sku={"name": "Standard"},
            public_ip_allocation_method="Static",
            delete_option="Delete",
            **self._common,
            opts=inside,
        )
        inner_host = f"10.77.0.{_FIRST_ADDRESS + node}"
        interface = azure.network.NetworkInterface(
            f"interface{suffix}",
            network_interface_name=f"interface{suffix}",
            ip_configurations=[
                {
                    "name": "first",
                    "subnet": {"id": subnet.id},
                    "private_ip_allocation_method": "Static",
                    "private_ip_address": inner_host,
                    "public_ip_address": {"id": address.id, "delete_option": "Delete"},
                }
            ],
            **self._common,
            opts=inside,
        )
        name = azure_names.machine_of(self.run, node)
        machine = azure.compute.VirtualMachine(
            f"machine{suffix}",
            vm_name=name,
            hardware_profile={"vm_size": self.offer.instance_type},
            storage_profile=self._disk(),
            os_profile=self._system(node),
            network_profile={
                "network_interfaces": [
                    {"id": interface.id, "primary": True, "delete_option": "Delete"}
                ]
            },
            **self._common,
            **self._way_of_buying(),
            opts=inside,
        )
        return {
            # Not before it is there.
            "id": machine.id.apply(lambda _: name),
            "host": address.ip_address,
            "port": SSH_PORT,
            "user": USER,
            "host_key": self.run.host_key_of(node),
            # It comes with the custom data, which the machine itself keeps.
            "host_key_bootstrap": True,
            "firewall": str(self.allowed),
            "inner_host": inner_host,
        }

    def _disk(self) -> Mapping[str, Any]:
        """A managed disk that goes with its machine.

        Encrypted at rest with keys of Azure's, without a word, as all are: learn.microsoft.com/azure/virtual-machines/disk-encryption,
        "Platform-managed keys". Through a network it can be read by whoever has asked for an address with a signature in it, which
        takes a permission that the role of docs/policies/azure.json has not. `publicNetworkAccess` and `networkAccessPolicy`, which
        would forbid that to all, are properties of Microsoft.Compute/disks, and a disk that comes with its machine takes neither
        (ManagedDiskParameters of version 2024-11-01: learn.microsoft.com/rest/api/compute/virtual-machines/create-or-update).
        """
        return {
            "image_reference": azure_images.reference(self.spec, self.offer),
            "os_disk": {
                "create_option": "FromImage",
                "delete_option": "Delete",
                "disk_size_gb": azure_images.disk_gb(self.spec, self.offer),
                "managed_disk": {"storage_account_type": "StandardSSD_LRS"},
            },
        }

    def _system(self, node: int) -> Mapping[str, Any]:
        from pulumi import Output

        key = {"path": f"/home/{USER}/.ssh/authorized_keys", "key_data": self.run.public_key}
        return {
            "computer_name": azure_names.host_name_of(self.run, node),
            "admin_username": USER,
            "custom_data": Output.secret(self._custom_data(node)),
            "linux_configuration": {
                "disable_password_authentication": True,
                "ssh": {"public_keys": [key]},
            },
        }

    def _custom_data(self, node: int) -> str:
        import base64  # a plan that asks nobody has no use for it

        return base64.b64encode(user_data.of(self.run, node).encode()).decode()

    def _way_of_buying(self) -> Mapping[str, Any]:
        if not self.offer.spot:
            return {"priority": "Regular"}
        # Deleted when it is taken back: a machine that is merely deallocated has a disk that costs money.
        return {
            "priority": "Spot",
            "eviction_policy": "Delete",
            "billing_profile": {"max_price": azure_beside.most_for_machine(self.spec, self.offer)},
        }


def _snake(rule: Mapping[str, Any]) -> dict[str, Any]:
    """As the SDK spells the API's words."""
    return {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in name): value
        for name, value in rule.items()
    }
