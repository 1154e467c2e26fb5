"""The resources of one run on Compute Engine: a network of its own with one way in, and its machines.

Networks, subnetworks and firewall rules carry no labels there: their names and descriptions say whose they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dayfly.errors import ProvisionFailed
from dayfly.infra import caller, gcp_account, gcp_offers, run_names, user_data
from dayfly.infra.gcp_offers import Hardware
from dayfly.infra.gcp_place import region_of
from dayfly.infra.ingress import SSH_PORT
from dayfly.infra.offers import Offer
from dayfly.infra.run import Run
from dayfly.infra.spec import Spec

# What the program gives the plugin, as a state has it.
SETTINGS = frozenset(
    {
        *("project", "region", "defaultLabels", "addPulumiAttributionLabel", "version"),
        "computeCustomEndpoint",
    }
)
_USER = "ubuntu"
_RANGE = "10.77.0.0/24"
# Families that always lead to their newest image: (project, family). Those of Deep Learning VM are retired after a while.
_GPU_IMAGE = ("deeplearning-platform-release", "common-cu129-ubuntu-2404-nvidia-580")
_PLAIN_IMAGE = {
    "x86_64": ("ubuntu-os-cloud", "ubuntu-2404-lts-amd64"),
    "arm64": ("ubuntu-os-cloud", "ubuntu-2404-lts-arm64"),
}
# The newest machines take no persistent disk (docs "Hyperdisk", machine series support).
_HYPERDISK = ("a3-", "a4-")
# The plugin waits for so long for an operation; a refusal for want of capacity takes half a minute.
_CREATE, _DELETE = "10m", "15m"
# Compute Engine takes no moment that is nearer than that (docs "Limit the run time of a VM").
_LEAST_RUNTIME_S = 30


def declare(spec: Spec, offer: Offer, run: Run, project: str | None) -> list[Mapping[str, Any]]:
    """Registers the resources inside a Pulumi program.

    Args:
        spec: what is asked for.
        offer: the machine; its region is a zone.
        run: whose it is.
        project: that it is in; None where a plan is all that is wanted, and nobody has named one.

    Returns:
        The outputs of each machine.

    Raises:
        ConfigurationError: nobody can tell who is to be let in.
        ProvisionFailed: the run's deadline is too near.
    """
    from pulumi import CustomTimeouts, ResourceOptions
    from pulumi_gcp import Provider
    from pulumi_gcp.compute import Firewall, Network, Subnetwork

    allowed = caller.of_run(spec, run, gcp_account.base_url())
    name, remark = (
        run_names.of(run),
        f"dayfly run {run.id}, until {int(run.deadline)}, of {run.owner}",
    )
    region = region_of(offer.region)
    provider = Provider(
        "gcp",
        project=project,
        region=region,
        default_labels=run.tags,
        add_pulumi_attribution_label=False,
        compute_custom_endpoint=endpoint(),
    )
    options = ResourceOptions(
        provider=provider, custom_timeouts=CustomTimeouts(create=_CREATE, delete=_DELETE)
    )
    network = Network(
        "network", name=name, description=remark, auto_create_subnetworks=False, opts=options
    )
    subnetwork = Subnetwork(
        "subnetwork",
        name=name,
        description=remark,
        network=network.id,
        region=region,
        ip_cidr_range=_RANGE,
        opts=options,
    )
    Firewall(
        "firewall",
        name=name,
        description=remark,
        network=network.id,
        direction="INGRESS",
        allows=[{"protocol": "tcp", "ports": [str(SSH_PORT)]}],
        source_ranges=[allowed.cidr],
        target_tags=[name],
        # Another address of this computer changes nothing that is up.
        opts=ResourceOptions.merge(options, ResourceOptions(ignore_changes=["source_ranges"])),
    )
    if spec.nodes > 1:
        Firewall(
            "firewall-inner",
            name=f"{name}-in",
            description=remark,
            network=network.id,
            direction="INGRESS",
            allows=[{"protocol": "all"}],
            source_tags=[name],
            target_tags=[name],
            opts=options,
        )
    return [
        _machine(
            spec, offer, run, node, subnetwork=subnetwork.id, firewall=str(allowed), options=options
        )
        for node in range(spec.nodes)
    ]


def endpoint() -> str | None:
    """Where the plugin finds Compute Engine, None where Google has it."""
    return f"{gcp_account.base_url()}/compute/v1/" if gcp_account.is_emulated() else None


def _machine(
    spec: Spec,
    offer: Offer,
    run: Run,
    node: int,
    *,
    subnetwork: Any,
    firewall: str,
    options: Any,
) -> Mapping[str, Any]:
    from pulumi_gcp.compute import Instance

    name, hardware = run_names.of(run), Hardware.of(offer.instance_type)
    other = f"-{node}" if node else ""
    labels = run.tags | ({"dayfly-node": str(node)} if node else {})
    instance = Instance(
        f"instance{other}",
        name=f"{name}{other}",
        description=f"dayfly run {run.id}, of {run.owner}",
        zone=offer.region,
        machine_type=hardware.machine_type,
        guest_accelerators=_accelerators(offer, hardware),
        boot_disk={
            "auto_delete": True,
            "initialize_params": {
                "image": spec.image or _image(offer),
                "size": gcp_offers.disk_gb(spec, offer),
                "type": _disk_type(hardware),
                "labels": labels,
            },
        },
        # An address of its own for as long as it lives.
        network_interfaces=[{"subnetwork": subnetwork, "access_configs": [{}]}],
        scheduling=_scheduling(offer, run),
        metadata=_metadata(run, node),
        shielded_instance_config={
            # NVIDIA's driver in Google's images is not signed.
            "enable_secure_boot": not offer.gpus,
            "enable_vtpm": True,
            "enable_integrity_monitoring": True,
        },
        # No service account: nothing on the machine can act in the project.
        deletion_protection=False,
        tags=[name],
        labels=labels,
        opts=options,
    )
    interface = instance.network_interfaces[0]
    return {
        "id": instance.id,
        "host": interface.access_configs[0].nat_ip,
        "port": SSH_PORT,
        "user": _USER,
        "host_key": run.host_key_of(node),
        # It comes with the user data, which whoever may see the instance can read.
        "host_key_bootstrap": True,
        "firewall": firewall,
        "inner_host": interface.network_ip,
    }


def _accelerators(offer: Offer, hardware: Hardware) -> Sequence[Mapping[str, Any]] | None:
    if not hardware.accelerator:
        return None
    return [{"type": hardware.accelerator, "count": offer.gpus}]


def _image(offer: Offer) -> str:
    """The family's address, which Compute Engine itself resolves to its newest image."""
    project, family = _GPU_IMAGE if offer.gpus else _PLAIN_IMAGE[offer.arch or "x86_64"]
    return f"projects/{project}/global/images/family/{family}"


def _disk_type(hardware: Hardware) -> str:
    is_new = hardware.machine_type.startswith(_HYPERDISK)
    return "hyperdisk-balanced" if is_new else "pd-balanced"


def _scheduling(offer: Offer, run: Run) -> Mapping[str, Any]:
    """Compute Engine itself deletes the machine when its time is over, whatever becomes of everybody else.

    At a moment, and not after a duration: that would count from when the machine runs, and the time in which it was waited
    for and made would come on top.
    """
    return {
        "provisioning_model": "SPOT" if offer.spot else "STANDARD",
        "preemptible": offer.spot,
        "automatic_restart": False,
        # With a GPU, and for Spot, nothing else is possible.
        "on_host_maintenance": "TERMINATE",
        "instance_termination_action": "DELETE",
        "termination_time": _ends_at(run),
    }


def _ends_at(run: Run) -> str:
    """The run's deadline as RFC 3339 has it, in whole seconds and not before it.

    Raises:
        ProvisionFailed: it is past, or too near to be taken, and this is no preview.
    """
    at = math.ceil(run.deadline)
    text = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if run.public_key and at - time.time() < _LEAST_RUNTIME_S:
        raise ProvisionFailed(
            f"the run's deadline, {text}, is past, or less than {_LEAST_RUNTIME_S} s away, and Compute Engine would not take a"
            " machine that has to end then: give the run more time with max_runtime",
            "invalid",
        )
    return text


def _metadata(run: Run, node: int) -> Mapping[str, Any]:
    from pulumi import Output

    return {
        "ssh-keys": f"{_USER}:{run.public_key} {run.owner}",
        # The project's own keys and its members' are for others.
        "block-project-ssh-keys": "TRUE",
        "enable-oslogin": "FALSE",
        "user-data": Output.secret(user_data.of(run, node)),
    }
