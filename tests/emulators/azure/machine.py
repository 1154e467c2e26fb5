"""The machine behind a virtual machine of the emulated Azure: a real SSH server, with the size's GPUs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from dayfly.infra import azure_names
from dayfly.infra.catalog import MachineType
from tests.emulators.gpu import Gpu
from tests.emulators.machines.machine import Machine
from tests.emulators.machines.machines import Machines
from tests.emulators.machines.wanted import Wanted

if TYPE_CHECKING:
    from tests.emulators.azure.things import Thing
    from tests.emulators.azure.world import World

# As the driver names them, with the memory that it leaves in MiB.
_GPUS = {
    ("T4", 16): ("Tesla T4", 15360),
    ("A10", 24): ("NVIDIA A10-24Q", 24512),
    ("A100", 40): ("NVIDIA A100-SXM4-40GB", 40960),
    ("A100", 80): ("NVIDIA A100 80GB PCIe", 81920),
    ("H100", 80): ("NVIDIA H100 80GB HBM3", 81559),
    ("H100-NVL", 94): ("NVIDIA H100 NVL", 95830),
}


def make(machines: Machines, vm: Thing, world: World) -> Machine:
    """Boots it; its user data is applied once its SSH server is there."""
    system = vm.properties["osProfile"]
    (key,) = system["linuxConfiguration"]["ssh"]["publicKeys"]
    size = world.options.sizes[vm.properties["hardwareProfile"]["vmSize"]]
    wanted = Wanted(
        hostname=system["computerName"],
        authorized_key=key["keyData"],
        user_data=base64.b64decode(system.get("customData") or "").decode(),
        gpu=gpu_of(size),
        lets_in=lambda address: world.lets_in(vm, address),
    )
    made = machines.make(
        azure_names.id_of(vm.id.text).replace("/", "_"), wanted, world.address_of(vm)
    )
    made.start_sshd()
    made.apply_user_data()
    return made


def gpu_of(size: MachineType) -> Gpu | None:
    """What the driver shows of a size; None where it has none."""
    if not size.gpus:
        return None
    name, mib = _GPUS[size.gpu_model, round(size.gpu_memory_gb)]
    return Gpu(name, size.gpus, mib)
