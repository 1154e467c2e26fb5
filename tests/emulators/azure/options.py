"""How the emulated Azure behaves: what it sells, how much may be had of it, and how long things take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dayfly.infra import catalog
from dayfly.infra.azure_offers import REGIONS

SUBSCRIPTION = "6f1d2c3b-0000-4a5e-9b7c-0123456789ab"
# (publisher, offer, sku) -> GiB of the image's own disk.
IMAGES: Mapping[tuple[str, str, str], int] = {
    ("microsoft-dsvm", "ubuntu-hpc", "2204"): 64,
    ("microsoft-dsvm", "ubuntu-hpc", "2404"): 64,
    ("canonical", "ubuntu-24_04-lts", "server"): 30,
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2"): 30,
}


@dataclass(frozen=True)
class Options:
    """One account and its cloud.

    Attributes:
        machines: whether virtual machines are real SSH servers; else rows only.
        time_scale: how many of the cloud's seconds pass in one of this computer's, as clients are told.
        create_s: for a virtual machine, in this computer's seconds; likewise the others.
        delete_s: for a virtual machine.
        group_delete_s: for a group, beside what is in it.
        network_s: for anything of the network.
        cores: quota of virtual cores in each region.
        spot_cores: apart from that, of spot machines there.
        addresses: quota of public addresses in each region.
        page_size: rows of a page of a listing.
        closed: "SIZE@REGION" that the subscription may not have, as its list of what it is sold says.
    """

    machines: bool = True
    time_scale: float = 60.0
    create_s: float = 0.3
    delete_s: float = 0.1
    group_delete_s: float = 0.1
    network_s: float = 0.0
    cores: int = 400
    spot_cores: int = 400
    addresses: int = 100
    page_size: int = 50
    closed: tuple[str, ...] = ()
    regions: tuple[str, ...] = REGIONS
    sizes: Mapping[str, catalog.MachineType] = field(
        default_factory=lambda: catalog.machine_types("azure")
    )
