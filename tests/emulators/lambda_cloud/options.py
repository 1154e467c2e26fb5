"""How the emulated cloud behaves: its delays, limits and stock, as one JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.emulators.lambda_cloud.catalog import REGIONS, TYPES
from tests.emulators.lambda_cloud.faults import Fault


@dataclass(frozen=True)
class Options:
    """All durations are emulated seconds, which pass `time_scale` times as fast as real ones.

    Attributes:
        time_scale: 100 makes an hour 36 s; a real second costs what it costs, and a billing increment is shorter.
        api_key: the account's key; made up where empty.
        request_interval_s: between two requests of the account; 0 switches the limit off.
        launch_interval_s: between two launches; 0 switches the limit off.
        limit_tolerance: how early a request may come, as a part of the interval.
        retry_after: whether the limiter's 429 says when to come back; the API's description has no such header.
        boot_s: from an accepted launch to `active`.
        ip_s: from an accepted launch to the instance's ip; longer than boot_s makes an active row without one.
        sshd_s: from `active` to an SSH server that answers.
        user_data_s: from there until cloud-init has applied the user data; before, an image host key is shown.
        reboot_s: from a restart to `active`.
        terminating_s: from an accepted terminate to `terminated`.
        linger_s: a terminated row is listed for so long.
        listing_lag_s: a listing misses for so long what was just launched.
        get_lag_s: the same for asking by id.
        page_size: rows of an instance listing before a page_token follows; 0 lists all at once.
        quota: instances that the account may have at once.
        capacity: type -> region -> machines that are left; what is not named keeps the catalog's.
        default_capacity: machines of each type in each region that the catalog lists for it.
        regions_without_firewall: where rulesets cannot be made.
        firewalls: rulesets block: who has an address that no rule lets in does not reach the machine, and is cut off where the rules
            change under an open connection.
        own_addresses: True gives each machine an address of loopback, with its SSH server at port 22, so that nobody needs the
            port map. Linux and root, and no SSH server of this computer that listens on all addresses.
        machines: False for instances that are rows only, without an SSH server behind them.
        billing_increment_s: that a bill is rounded up to.
        faults: the script.
    """

    time_scale: float = 1.0
    api_key: str = ""
    request_interval_s: float = 1.0
    launch_interval_s: float = 12.0
    limit_tolerance: float = 0.1
    retry_after: bool = False
    boot_s: float = 3.0
    ip_s: float = 3.5
    sshd_s: float = 1.0
    user_data_s: float = 1.0
    reboot_s: float = 2.0
    terminating_s: float = 2.0
    linger_s: float = 120.0
    listing_lag_s: float = 1.0
    get_lag_s: float = 0.0
    page_size: int = 0
    quota: int = 1000
    capacity: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    default_capacity: int = 1000
    regions_without_firewall: tuple[str, ...] = ("us-south-1",)
    own_addresses: bool = False
    firewalls: bool = False
    machines: bool = True
    billing_increment_s: float = 60.0
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.time_scale <= 0:
            raise ValueError(f"time_scale must be above 0, not {self.time_scale}")
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("_s") and value < 0:
                raise ValueError(f"{each.name} must not be below 0, not {value}")
        if self.firewalls and self.own_addresses:
            raise ValueError(
                "firewalls are in front of the ports of DAYFLY_SSH_PORT_MAP: not with own_addresses"
            )
        for name, regions in self.capacity.items():
            if unknown := {name} - set(TYPES) or set(regions) - set(REGIONS):
                raise ValueError(f"capacity names {', '.join(sorted(unknown))}, which is not sold")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Options:
        """Reads the object that `as_json` gives.

        Raises:
            ValueError: a name that is no option, or a value that cannot be one.
        """
        known = {each.name for each in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(
                f"unknown options {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
            )
        given = dict(values)
        if "faults" in given:
            given["faults"] = tuple(Fault.from_json(each) for each in given["faults"])
        if "regions_without_firewall" in given:
            given["regions_without_firewall"] = tuple(given["regions_without_firewall"])
        return cls(**given)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)
