"""What a cloud makes of a launch: how the machine is to be, in no cloud's own words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.emulators.gpu import Gpu


@dataclass(frozen=True)
class Wanted:
    """One machine.

    Attributes:
        hostname: of the machine.
        authorized_key: who may log in as `ubuntu`, "ssh-ed25519 AAAA..."; "" for nobody.
        user_data: for cloud-init.
        gpu: what the driver shows; None where there is none.
        mounts: folders of this computer and where the machine has them.
        lets_in: whether its firewall lets an address reach its SSH server; None where it has none.
    """

    hostname: str
    authorized_key: str
    user_data: str = ""
    gpu: Gpu | None = None
    mounts: tuple[tuple[Path, str], ...] = ()
    lets_in: Callable[[str], bool] | None = None
